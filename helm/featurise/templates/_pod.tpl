{{/* A backbone's values for its pods: those of `pod`, and over them the backbone's own. */}}
{{- define "featurise.podValues" -}}
{{- mergeOverwrite (deepCopy .root.Values.pod) (deepCopy (.backbone.pod | default dict)) | toYaml }}
{{- end }}

{{/* The pod that one attempt at a shard is: a backbone's values, and the root context. */}}
{{- define "featurise.pod" -}}
{{- $pod := include "featurise.podValues" . | fromYaml -}}
{{- $values := .root.Values -}}
apiVersion: v1
kind: Pod
metadata:
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- with $pod.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "featurise.extractors" .root | nindent 4 }}
    {{- with $values.queue }}
    kueue.x-k8s.io/queue-name: {{ . | quote }}
    {{- end }}
  {{- with $pod.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ .root.Release.Name }}-extractor
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $pod.terminationGracePeriodSeconds }}
  {{- range $field := list "runtimeClassName" "priorityClassName" }}
  {{- with index $pod $field }}
  {{ $field }}: {{ . | quote }}
  {{- end }}
  {{- end }}
  {{- range $field := list "nodeSelector" "affinity" "tolerations" "topologySpreadConstraints" "resourceClaims" "initContainers" }}
  {{- with index $pod $field }}
  {{ $field }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "featurise.imagePullSecrets" .root }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: base
      image: {{ .backbone.image | quote }}
      imagePullPolicy: IfNotPresent
      securityContext:
        {{- include "featurise.restricted" . | nindent 8 }}
      env:
        {{- include "featurise.storage" .root | nindent 8 }}
        - name: TMPDIR
          value: /scratch
        - name: FEATURISE_WEIGHTS_CACHE
          value: /weights
        {{- with $pod.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if or $values.storage.secret $pod.envFrom }}
      envFrom:
        {{- with $values.storage.secret }}
        - secretRef:
            name: {{ . | quote }}
        {{- end }}
        {{- with $pod.envFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      resources:
        requests:
          cpu: {{ $pod.resources.cpu | quote }}
          memory: {{ $pod.resources.memory | quote }}
        limits:
          {{- with $pod.resources.cpuLimit }}
          cpu: {{ . | quote }}
          {{- end }}
          memory: {{ $pod.resources.memory | quote }}
          {{- with $pod.gpu.resource }}
          {{ . }}: {{ $pod.gpu.count }}
          {{- end }}
        {{- with $pod.resourceClaims }}
        claims:
          {{- range . }}
          - name: {{ .name | quote }}
          {{- end }}
        {{- end }}
      terminationMessagePath: /dev/termination-log
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        - name: scratch
          mountPath: /scratch
        - name: tmp
          mountPath: /tmp
        - name: shared-memory
          mountPath: /dev/shm
        - name: weights
          mountPath: /weights
          {{- if $pod.weightsCache.image }}
          readOnly: true
          {{- end }}
        {{- with $pod.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: scratch
      emptyDir:
        sizeLimit: {{ $pod.scratch.sizeLimit | quote }}
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: 1Gi
    - name: weights
      {{- if $pod.weightsCache.image }}
      image:
        reference: {{ $pod.weightsCache.image | quote }}
        pullPolicy: IfNotPresent
      {{- else if $pod.weightsCache.claim }}
      persistentVolumeClaim:
        claimName: {{ $pod.weightsCache.claim | quote }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ $pod.weightsCache.sizeLimit | quote }}
      {{- end }}
    {{- with $pod.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
