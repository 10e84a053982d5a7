{{/* Values that do not go together: each is refused by name, with what to do. The schema checks each by itself. */}}

{{- define "baton.checks" -}}
{{- $values := .Values -}}
{{- $config := include "baton.userConfig" . | fromYaml -}}
{{- if $config.models }}{{ fail "config.models: the chart makes groups of pods for the pools of one model; leave `models` out and set `model`, or install the chart once for each model" }}{{ end -}}
{{- include "baton.checkDoors" (dict "root" . "config" $config) -}}
{{- include "baton.checkPools" (dict "root" . "config" $config) -}}
{{- include "baton.checkSecrets" . -}}
{{- with $values.modelCache -}}
{{- if and (eq .type "hostPath") (not .hostPath) }}{{ fail "modelCache.hostPath: is empty and modelCache.type is hostPath; give a folder on the nodes" }}{{ end -}}
{{- if and .hostPath (ne .type "hostPath") }}{{ fail (printf "modelCache.hostPath: %s is of no use with modelCache.type %s; set hostPath" .hostPath .type) }}{{ end -}}
{{- if and .existingClaim (ne .type "pvc") }}{{ fail (printf "modelCache.existingClaim: %s is of no use with modelCache.type %s; set pvc" .existingClaim .type) }}{{ end -}}
{{- end -}}
{{- if and $values.gcsFaultTolerance.enabled (not $values.gcsFaultTolerance.redisAddress) }}{{ fail "gcsFaultTolerance.redisAddress: is empty; give host:port of Redis" }}{{ end -}}
{{- if and $values.gateway.enabled (not $values.gateway.parentRefs) }}{{ fail "gateway.parentRefs: is empty; name the Gateway: [{name: ...}]" }}{{ end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) }}{{ fail "ingress.host: is empty; give the name by which clients come" }}{{ end -}}
{{- if and $values.monitoring.dashboards.enabled (not (.Files.Glob "dashboards/*.json")) }}{{ fail "monitoring.dashboards.enabled: true, but the chart's folder dashboards/ has no *.json; put some there, or set false" }}{{ end -}}
{{- if $values.monitoring.serviceMonitor.enabled -}}
{{- if and $values.tls.clientCa (not $values.monitoring.clientCertificateSecret) }}{{ fail "monitoring.clientCertificateSecret: is empty, and with tls.clientCa Prometheus must show a certificate; name a Secret" }}{{ end -}}
{{- if and $values.auth.enabled (not $values.monitoring.bearerTokenSecret.name) (not (dig "auth" "public_metrics" false $config)) }}{{ fail "monitoring.bearerTokenSecret.name: is empty, and with auth.enabled /metrics wants a key; name a Secret with one, or set config.auth.public_metrics: true" }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "baton.checkDoors" -}}
{{- $values := .root.Values -}}
{{- range $door := list "http" "grpc" -}}
{{- $port := dig $door "port" 1 $.config | int -}}
{{- if eq $port 0 }}{{ fail (printf "config.%s.port: 0 takes any free port, and a Service must know it; give one, or leave it out" $door) }}{{ end -}}
{{- if lt $port 1024 }}{{ if ne $port 1 }}{{ fail (printf "config.%s.port: %d is for root alone, and pods run without; give 1024 or more, and service.%sPort: %d" $door $port $door $port) }}{{ end }}{{ end -}}
{{- end -}}
{{- if and $values.gpu.enabled (eq (dig "device" "auto" .config) "cpu") }}{{ fail "gpu.enabled: true, but config.device is cpu; leave one of them out" }}{{ end -}}
{{- if and (not $values.gpu.enabled) (eq (dig "device" "auto" .config) "cuda") }}{{ fail "gpu.enabled: false, but config.device is cuda; set gpu.enabled: true" }}{{ end -}}
{{- $offered := ternary "baton_ingress" "" (gt (int (include "baton.replicas" .root)) 1) -}}
{{- if not (has (dig "http" "node_resource" "" .config) (list "" $offered)) }}{{ fail (printf "config.http.node_resource: %s, but pods with an ingress offer %s; leave it out" .config.http.node_resource ($offered | default "none, the one replica is on the head")) }}{{ end -}}
{{- $transport := dig "kv" "transport" "auto" .config -}}
{{- if has $transport (list "shm" "cuda_ipc") }}{{ fail (printf "config.kv.transport: %s joins workers of one host, and here each worker has a pod; use auto, grpc, gloo or nccl" $transport) }}{{ end -}}
{{- if and (hasKey .config "tls") (not $values.tls.enabled) }}{{ fail "config.tls: files come from a Secret here; leave the section out, set tls.enabled: true and tls.existingSecret" }}{{ end -}}
{{- if and (dig "tls" "client_ca" "" .config) (not $values.tls.clientCa) }}{{ fail "config.tls.client_ca: would be left out; set tls.clientCa: true" }}{{ end -}}
{{- if and (dig "auth" "keys" list .config) $values.auth.enabled }}{{ fail "config.auth.keys: would stand in a ConfigMap; give them as auth.keys or in auth.existingSecret" }}{{ end -}}
{{- if and (dig "auth" dict .config) (not $values.auth.enabled) }}{{ fail "config.auth: keys come from a Secret here; leave the section out, set auth.enabled: true and auth.existingSecret or auth.keys" }}{{ end -}}
{{- end }}

{{- define "baton.checkPools" -}}
{{- $values := .root.Values -}}
{{- $pools := include "baton.pools" .root | fromJson -}}
{{- range $role, $given := .config.pools -}}
{{- $given := $given | default dict -}}
{{- if and (hasKey $given "cores") (ne (toString $given.cores) "auto") }}{{ fail (printf "config.pools.%s.cores: a pod's cores are those of groups.%s.resources; leave it out" $role $role) }}{{ end -}}
{{- range $name, $value := (dig "resources" dict $given) -}}
{{- if or (ne $name (printf "baton_%s" $role)) (ne (toString $value) "1") }}{{ fail (printf "config.pools.%s.resources: %s: %v, but pods of this group offer baton_%s, 1 for each rank; leave it out" $role $name $value $role) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $role := list "prefill" "decode" "mixed" "draft" -}}
{{- $scale := (get $values.groups $role).autoscaling -}}
{{- $min := int $scale.minWorkers -}}{{- $max := int $scale.maxWorkers -}}
{{- if and (not $values.autoscaling.enabled) (or $min $max) }}{{ fail (printf "groups.%s.autoscaling: minWorkers %d and maxWorkers %d are of no use while autoscaling.enabled is false" $role $min $max) }}{{ end -}}
{{- with get $pools $role -}}
{{- $workers := int .workers -}}
{{- if and $max (gt $workers $max) }}{{ fail (printf "groups.%s.autoscaling.maxWorkers: %d, but config.pools.%s.workers is %d; raise the one, or lower the other" $role $max $role $workers) }}{{ end -}}
{{- if gt $min ($max | default $workers) }}{{ fail (printf "groups.%s.autoscaling.minWorkers: %d is above maxWorkers %d; lower it" $role $min ($max | default $workers)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "baton.checkSecrets" -}}
{{- with .Values.auth -}}
{{- if and .enabled (not .existingSecret) (not .keys) }}{{ fail "auth.enabled: true without keys; give auth.existingSecret with keys.yaml, or auth.keys (`baton key create` makes one)" }}{{ end -}}
{{- if and .existingSecret .keys }}{{ fail "auth.keys: would be left out beside auth.existingSecret; give one of them" }}{{ end -}}
{{- if and (not .enabled) (or .existingSecret .keys) }}{{ fail "auth.enabled: false with keys given; set it to true, or leave them out" }}{{ end -}}
{{- end -}}
{{- with .Values.tls -}}
{{- if and .enabled (not .existingSecret) (not (and .certificate .key)) }}{{ fail "tls.enabled: true without a certificate; give tls.existingSecret, or tls.certificate and tls.key" }}{{ end -}}
{{- if and .existingSecret (or .certificate .key .ca) }}{{ fail "tls.certificate, tls.key, tls.ca: would be left out beside tls.existingSecret; give one of them" }}{{ end -}}
{{- if and (not .enabled) (or .existingSecret .certificate .key .ca .clientCa) }}{{ fail "tls.enabled: false with a certificate or CA given; set it to true, or leave them out" }}{{ end -}}
{{- if and .enabled .clientCa (not .existingSecret) (not .ca) }}{{ fail "tls.clientCa: true without a CA; give tls.ca, or ca.crt in tls.existingSecret" }}{{ end -}}
{{- end -}}
{{- if and .Values.hub.existingSecret .Values.hub.token }}{{ fail "hub.token: would be left out beside hub.existingSecret; give one of them" }}{{ end -}}
{{- end }}
