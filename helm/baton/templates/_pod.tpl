{{/* What the pods of all groups share. */}}

{{/* podDefaults, over them the group's own, as YAML. Arguments: root, group. */}}
{{- define "baton.podKeys" -}}
{{- $own := (get .root.Values.groups .group).pod -}}
{{- $keys := deepCopy .root.Values.podDefaults -}}
{{- range $key, $value := $own }}{{ $_ := set $keys $key $value }}{{ end -}}
{{- toYaml $keys -}}
{{- end }}

{{- define "baton.podLabels" -}}
{{ include "baton.selector" .root }}
baton.dev/pool: {{ .group }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .group }}
app.kubernetes.io/part-of: baton
{{- if .door }}
baton.dev/door: "true"
{{- end }}
{{- if include "baton.podsFetch" .root }}
baton.dev/fetches: "true"
{{- end }}
{{- end }}

{{- define "baton.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "baton.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods land. Argument: root, group. */}}
{{- define "baton.scheduling" -}}
{{- $keys := include "baton.podKeys" . | fromYaml -}}
{{- $labels := dict "matchLabels" (merge (include "baton.selector" .root | fromYaml) (dict "baton.dev/pool" .group)) -}}
{{- with $keys.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $keys.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $keys.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $keys.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
  - {{ toYaml (merge (dict) . (dict "labelSelector" $labels)) | nindent 4 }}
{{- end }}
{{- end }}
{{- with $keys.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $keys.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $keys.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whether pods other than the Job's may have to fetch: not where a Job fills a shared claim. */}}
{{- define "baton.podsFetch" -}}
{{- if not (and .Values.modelFetch.enabled (eq .Values.modelCache.type "pvc")) }}true{{ end -}}
{{- end }}

{{/* Environment of every container of ours. Arguments: root, group, fetches (may ask the Hub, and has its token). */}}
{{- define "baton.env" -}}
- {name: HOME, value: /home/baton}
- {name: BATON_CACHE, value: /cache}
- {name: HF_HOME, value: /cache/huggingface}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_worker_niceness, value: "0"}
{{- $online := and (or .fetches (not .root.Values.modelFetch.enabled)) (not .root.Values.hub.offline) }}
{{- if not $online }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- else }}
{{- with include "baton.hubSecret" .root }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.root.Values.hub.key }}}}
{{- end }}
{{- end }}
{{- with .group }}
{{- with (include "baton.podKeys" $ | fromYaml).env }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Ray's token; KubeRay gives it to the first container alone. */}}
{{- define "baton.rayTokenEnv" -}}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "baton.internalSecret" . }}, key: auth_token}}
{{- end }}

{{- define "baton.mounts" -}}
- {name: home, mountPath: /home/baton}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
- {name: config, mountPath: /etc/baton, readOnly: true}
{{- end }}

{{/* Of a pod with Ray in it. ray-logs and shared-mem are the names by which KubeRay knows such volumes. */}}
{{- define "baton.rayMounts" -}}
{{ include "baton.mounts" . }}
- {name: ray-logs, mountPath: /tmp/ray}
- {name: shared-mem, mountPath: /dev/shm}
{{- end }}

{{/* Arguments: root, door (has an ingress: keys and certificates are there too). */}}
{{- define "baton.volumes" -}}
- {name: home, emptyDir: {sizeLimit: 1Gi}}
- {name: tmp, emptyDir: {sizeLimit: 10Gi}}
- name: cache
{{- with .root.Values.modelCache }}
{{- if eq .type "pvc" }}
  persistentVolumeClaim: {claimName: {{ include "baton.claim" $.root }}}
{{- else if eq .type "hostPath" }}
  hostPath: {path: {{ .hostPath }}, type: Directory}
{{- else }}
  emptyDir: {sizeLimit: {{ .size }}}
{{- end }}
{{- end }}
- name: config
  projected:
    defaultMode: 0440
    sources:
      - configMap: {name: {{ include "baton.fullname" .root }}, items: [{key: cluster.yaml, path: cluster.yaml}]}
{{- if and .door .root.Values.auth.enabled }}
      - secret: {name: {{ include "baton.keysSecret" .root }}, items: [{key: keys.yaml, path: keys/keys.yaml}]}
{{- end }}
{{- if and .door .root.Values.tls.enabled }}
      - secret:
          name: {{ include "baton.tlsSecret" .root }}
          items:
            - {key: tls.crt, path: tls/tls.crt}
            - {key: tls.key, path: tls/tls.key}
            {{- if .root.Values.tls.clientCa }}
            - {key: ca.crt, path: tls/ca.crt}
            {{- end }}
{{- end }}
{{- end }}

{{/*
Fetches config's models unless they are in the cache; nothing to do for a folder. Where a Job fills a shared claim, this
one waits for it instead. Arguments: root, group (empty: the Job's).
*/}}
{{- define "baton.fetchContainer" -}}
{{- $fetches := or (not .group) (include "baton.podsFetch" .root) -}}
- name: fetch-model
  image: {{ include "baton.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  {{- if $fetches }}
  command: [baton, fetch, --config, /etc/baton/cluster.yaml]
  {{- else }}
  command: [sh, -c, "until baton fetch --config /etc/baton/cluster.yaml; do sleep 5; done"]
  {{- end }}
  env:
    {{- include "baton.env" (dict "root" .root "group" .group "fetches" $fetches) | nindent 4 }}
    {{- if not $fetches }}
    - {name: PIP_NO_INDEX, value: "1"}
    {{- end }}
  resources: {{ toYaml .root.Values.modelFetch.resources | nindent 4 }}
  securityContext: {{ include "baton.containerSecurity" . | nindent 4 }}
  volumeMounts: {{ include "baton.mounts" .root | nindent 4 }}
{{- end }}

{{/* Of Ray's own container: its agent answers for raylet and, on the head, GCS. It asks no token there. */}}
{{- define "baton.rayProbes" -}}
startupProbe:
  httpGet: {path: /api/healthz, port: ray-agent}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /api/healthz, port: ray-agent}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* Ready: the ingress of this pod answers, and no pool that should serve is empty. Argument: root. */}}
{{- define "baton.doorProbe" -}}
{{- if .Values.tls.clientCa -}}
tcpSocket: {port: {{ include "baton.httpPort" . }}}
{{- else -}}
httpGet: {path: /health, port: {{ include "baton.httpPort" . }}, scheme: {{ ternary "HTTPS" "HTTP" .Values.tls.enabled }}}
{{- end }}
periodSeconds: 5
timeoutSeconds: 3
failureThreshold: 2
{{- end }}

{{- define "baton.doorPorts" -}}
- {name: http, containerPort: {{ include "baton.httpPort" . }}}
- {name: grpc, containerPort: {{ include "baton.grpcPort" . }}}
{{- end }}

{{/* A group's resources and its GPUs. Arguments: root, group, gpus. */}}
{{- define "baton.resources" -}}
{{- $resources := deepCopy (get .root.Values.groups .group).resources -}}
{{- if .gpus -}}
{{- range $kind := list "requests" "limits" -}}
{{- $amounts := get $resources $kind | default dict -}}
{{- $_ := set $amounts $.root.Values.gpu.resource (int $.gpus) -}}
{{- $_ := set $resources $kind $amounts -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}
