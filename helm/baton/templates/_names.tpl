{{/* Names and labels. */}}

{{- define "baton.fullname" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name)) -}}
{{- /* KubeRay makes longer names of it, and a Service's begins with a letter. */ -}}
{{- if gt (len $name) 40 }}{{ fail (printf "fullnameOverride: %q has %d characters, 40 are the most; set a shorter one" $name (len $name)) }}{{ end -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*[a-z0-9]$" $name) }}{{ fail (printf "fullnameOverride: %q is no name for a Service; begin with a letter, then a-z, 0-9 and -" $name) }}{{ end -}}
{{- $name -}}
{{- end }}

{{/* On every object. */}}
{{- define "baton.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Of a cluster's pods. app.kubernetes.io/name is KubeRay's own on them. */}}
{{- define "baton.selector" -}}
baton.dev/cluster: {{ include "baton.fullname" . }}
{{- end }}

{{/* Of the pods that hold an ingress. */}}
{{- define "baton.doorSelector" -}}
{{ include "baton.selector" . }}
baton.dev/door: "true"
{{- end }}

{{/* Whether `helm test` has what the doors ask of a client. */}}
{{- define "baton.hasTest" -}}
{{- $tests := .Values.tests -}}
{{- if and (or $tests.clientCertificateSecret (not .Values.tls.clientCa)) (or $tests.apiKeySecret.name (not .Values.auth.enabled)) }}true{{ end -}}
{{- end }}

{{- define "baton.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{- $tag := $image.tag | default .Chart.AppVersion -}}
{{- if eq $tag "latest" }}{{ fail "image.tag: latest is refused, pods of one cluster would differ; give a version, or image.digest" }}{{ end -}}
{{ $image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{- define "baton.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "baton.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | required "serviceAccount.name: is empty and serviceAccount.create is false; name one" }}
{{- end -}}
{{- end }}

{{- define "baton.internalSecret" -}}
{{ .Values.internal.existingSecret | default (printf "%s-internal" (include "baton.fullname" .)) }}
{{- end }}

{{- define "baton.keysSecret" -}}
{{ .Values.auth.existingSecret | default (printf "%s-keys" (include "baton.fullname" .)) }}
{{- end }}

{{- define "baton.tlsSecret" -}}
{{ .Values.tls.existingSecret | default (printf "%s-tls" (include "baton.fullname" .)) }}
{{- end }}

{{/* Empty: no token. */}}
{{- define "baton.hubSecret" -}}
{{ .Values.hub.existingSecret | default (ternary (printf "%s-hub" (include "baton.fullname" .)) "" (not (empty .Values.hub.token))) }}
{{- end }}

{{- define "baton.claim" -}}
{{ .Values.modelCache.existingClaim | default (printf "%s-cache" (include "baton.fullname" .)) }}
{{- end }}
