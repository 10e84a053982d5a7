{{/* The Baton config: as the user wrote it, and as the pods read it. */}}

{{/* As YAML, of a map or of a file's text; every key is known, what should be a section is one. Nulls: left out. */}}
{{- define "baton.userConfig" -}}
{{- $tree := .Values.config | default dict -}}
{{- if kindIs "string" $tree -}}
{{- $tree = fromYaml $tree -}}
{{- with $tree.Error }}{{ fail (printf "config: is no YAML of keys and values: %s" .) }}{{ end -}}
{{- end -}}
{{- include "baton.checkKeys" (dict "path" "config" "known" (.Files.Get "files/config-keys.json" | fromJson) "tree" $tree) -}}
{{- $kept := dict -}}
{{- range $key, $value := $tree }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $kept $key $value }}{{ end }}{{ end -}}
{{- toYaml $kept -}}
{{- end }}

{{/* Fails at a key that no Baton config has. `known`: key -> true, "any", or the keys below it. */}}
{{- define "baton.checkKeys" -}}
{{- $path := .path -}}
{{- $known := .known -}}
{{- range $key, $value := .tree -}}
{{- if not (hasKey $known $key) }}{{ fail (printf "%s.%s: unknown key; known here: %s" $path $key (keys $known | sortAlpha | join ", ")) }}{{ end -}}
{{- $below := get $known $key -}}
{{- if kindIs "map" $below -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}{{ fail (printf "%s.%s: %v is not a section; write its keys below it" $path $key $value) }}{{ end -}}
{{- include "baton.checkKeys" (dict "path" (printf "%s.%s" $path $key) "known" $below "tree" ($value | default dict)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Of each pool with workers, as a map of JSON: workers, ranks (of one worker), pods (of one worker), ranksPerPod.
Baton's own defaults: a pool that is named has one worker; without `mixed`, prefill and decode are there.
*/}}
{{- define "baton.pools" -}}
{{- $user := include "baton.userConfig" . | fromYaml -}}
{{- $named := $user.pools | default dict -}}
{{- $pools := dict -}}
{{- $mixed := $named.mixed | default dict -}}
{{- $hasMixed := and (hasKey $named "mixed") (ne (int (dig "workers" 1 $mixed)) 0) -}}
{{- range $role := list "prefill" "decode" "mixed" "draft" -}}
{{- $given := get $named $role | default dict -}}
{{- $default := ternary 1 0 (or (hasKey $named $role) (and (has $role (list "prefill" "decode")) (not $hasMixed))) -}}
{{- $workers := int (dig "workers" $default $given) -}}
{{- $ranks := mul (int (dig "tensor_parallel" 1 $given)) (int (dig "sequence_parallel" 1 $given)) (int (dig "layer_parallel" 1 $given)) -}}
{{- $spread := eq (dig "placement" "pack" $given) "spread" -}}
{{- if gt $workers 0 -}}
{{- $_ := set $pools $role (dict "workers" $workers "ranks" $ranks "pods" (ternary $ranks 1 $spread) "ranksPerPod" (ternary 1 $ranks $spread)) -}}
{{- end -}}
{{- end -}}
{{- toJson $pools -}}
{{- end }}

{{- define "baton.httpPort" -}}
{{- $user := include "baton.userConfig" . | fromYaml -}}
{{- dig "http" "port" 8000 $user | int -}}
{{- end }}

{{- define "baton.grpcPort" -}}
{{- $user := include "baton.userConfig" . | fromYaml -}}
{{- dig "grpc" "port" 9000 $user | int -}}
{{- end }}

{{- define "baton.replicas" -}}
{{- $user := include "baton.userConfig" . | fromYaml -}}
{{- dig "http" "replicas" 1 $user | int -}}
{{- end }}

{{/* cluster.yaml as the pods read it. */}}
{{- define "baton.config" -}}
{{- $root := . -}}
{{- $config := include "baton.userConfig" . | fromYaml -}}
{{- $http := $config.http | default dict -}}
{{- if not (has (dig "host" "" $http) (list "0.0.0.0" "::")) }}{{ $_ := set $http "host" "0.0.0.0" }}{{ end -}}
{{- if gt (int (include "baton.replicas" .)) 1 -}}
{{- $_ := set $http "node_resource" "baton_ingress" -}}
{{- end -}}
{{- $_ := set $config "http" $http -}}
{{- /* `auto` looks at the nodes that are there, and the head is there first. */ -}}
{{- if eq (dig "device" "auto" $config) "auto" }}{{ $_ := set $config "device" (ternary "cuda" "cpu" .Values.gpu.enabled) }}{{ end -}}
{{- /* Images are pulled and nodes come first. */ -}}
{{- $health := $config.health | default dict -}}
{{- if not (hasKey $health "start_timeout_s") }}{{ $_ := set $health "start_timeout_s" 1800 }}{{ end -}}
{{- $_ := set $config "health" $health -}}
{{- $pools := $config.pools | default dict -}}
{{- range $role, $pool := include "baton.pools" . | fromJson -}}
{{- $given := get $pools $role | default dict -}}
{{- $_ := set $given "workers" (int $pool.workers) -}}
{{- $_ := set $given "resources" (dict (printf "baton_%s" $role) 1) -}}
{{- $_ := set $given "labels" (dict "baton.dev/pool" $role) -}}
{{- $_ := set $pools $role $given -}}
{{- end -}}
{{- $_ := set $config "pools" $pools -}}
{{- if .Values.auth.enabled }}{{ $_ := set $config "auth" (merge (dict "keys_file" "/etc/baton/keys/keys.yaml") ($config.auth | default dict)) }}{{ end -}}
{{- if .Values.tls.enabled -}}
{{- $tls := dict "certificate" "/etc/baton/tls/tls.crt" "key" "/etc/baton/tls/tls.key" -}}
{{- if .Values.tls.clientCa }}{{ $_ := set $tls "client_ca" "/etc/baton/tls/ca.crt" }}{{ end -}}
{{- $_ := set $config "tls" $tls -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}
