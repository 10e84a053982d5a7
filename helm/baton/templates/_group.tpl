{{/*
A worker group. Arguments: root, group; units (ranks or replicas that one pod takes), gpus (of one pod), hosts (pods of
one worker: KubeRay makes and ends them together), replicas, min, max; door (has an ingress).
*/}}
{{- define "baton.workerGroup" -}}
{{- $keys := include "baton.podKeys" . | fromYaml -}}
{{- $values := .root.Values -}}
- groupName: {{ .group }}
  {{- if not (and $values.autoscaling.enabled (ne .group "ingress")) }}
  replicas: {{ .replicas }}
  {{- end }}
  minReplicas: {{ .min }}
  maxReplicas: {{ .max }}
  numOfHosts: {{ .hosts }}
  resources: {baton_{{ .group }}: {{ .units | quote }}}
  labels: {baton.dev/pool: {{ .group }}}
  rayStartParams:
    object-store-memory: "104857600"
  template:
    metadata:
      labels:
        {{- include "baton.podLabels" . | nindent 8 }}
        {{- with $keys.labels }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with $keys.annotations }}
      annotations: {{ toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "baton.serviceAccount" .root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ int $keys.terminationGracePeriodSeconds }}
      securityContext: {{ include "baton.podSecurity" .root | nindent 8 }}
      {{- with include "baton.scheduling" . }}{{ . | nindent 6 }}{{ end }}
      {{- if $values.modelFetch.enabled }}
      initContainers: {{ include "baton.fetchContainer" . | nindent 8 }}
      {{- end }}
      containers:
        - name: ray-worker
          image: {{ include "baton.image" .root }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          env: {{ include "baton.env" . | nindent 12 }}
          ports:
            - {name: metrics, containerPort: 8080}
            - {name: ray-agent, containerPort: 52365}
            {{- if .door }}{{ include "baton.doorPorts" .root | nindent 12 }}{{ end }}
          {{- include "baton.rayProbes" .root | nindent 10 }}
          {{- if .door }}
          readinessProbe: {{ include "baton.doorProbe" .root | nindent 12 }}
          {{- else }}
          readinessProbe:
            httpGet: {path: /api/healthz, port: ray-agent}
            periodSeconds: 5
            timeoutSeconds: 5
          {{- end }}
          resources: {{ include "baton.resources" . | nindent 12 }}
          securityContext: {{ include "baton.containerSecurity" .root | nindent 12 }}
          volumeMounts: {{ include "baton.rayMounts" .root | nindent 12 }}
      volumes:
        {{- include "baton.volumes" . | nindent 8 }}
        - {name: ray-logs, emptyDir: {sizeLimit: 10Gi}}
        - {name: shared-mem, emptyDir: {medium: Memory, sizeLimit: {{ (get $values.groups .group).shmSize }}}}
{{ end }}
