{{- define "featurise.labels" -}}
app.kubernetes.io/name: featurise
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* How the names of Airflow's own chart begin: its `airflow.fullname`. */}}
{{- define "featurise.airflow" -}}
{{- contains "airflow" .Release.Name | ternary .Release.Name (printf "%s-airflow" .Release.Name) -}}
{{- end }}

{{/*
Service accounts of the Airflow that is installed with this chart, unless others are named: tasks run in the scheduler
and wait in the triggerer.
*/}}
{{- define "featurise.launchers" -}}
{{- if .Values.launchers }}
{{- toYaml .Values.launchers }}
{{- else if .Values.airflow.enabled }}
{{- range $role := list "scheduler" "triggerer" }}
- name: {{ include "featurise.airflow" $ }}-{{ $role }}
{{- end }}
{{- end }}
{{- end }}

{{/* Environment of everything that talks to object storage. */}}
{{- define "featurise.storage" -}}
- name: AWS_DEFAULT_REGION
  value: {{ .Values.storage.region | quote }}
{{- with .Values.storage.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The pod that one attempt at a shard is: a backbone's name and image, and the root context. */}}
{{- define "featurise.pod" -}}
{{- $values := .root.Values -}}
apiVersion: v1
kind: Pod
metadata:
  namespace: {{ .root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: featurise-extractor
    app.kubernetes.io/instance: {{ .root.Release.Name }}
    {{- with $values.queue }}
    kueue.x-k8s.io/queue-name: {{ . | quote }}
    {{- end }}
  {{- with $values.pod.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ .root.Release.Name }}-extractor
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.pod.terminationGracePeriodSeconds }}
  {{- with $values.pod.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- with $values.pod.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $values.pod.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.pod.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
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
      image: {{ .image | quote }}
      imagePullPolicy: IfNotPresent
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      env:
        {{- include "featurise.storage" .root | nindent 8 }}
        - name: TMPDIR
          value: /scratch
        - name: FEATURISE_WEIGHTS_CACHE
          value: /weights
      {{- with $values.storage.secret }}
      envFrom:
        - secretRef:
            name: {{ . | quote }}
      {{- end }}
      resources:
        requests:
          cpu: {{ $values.pod.resources.cpu | quote }}
          memory: {{ $values.pod.resources.memory | quote }}
        limits:
          memory: {{ $values.pod.resources.memory | quote }}
          {{- with $values.pod.gpu.resource }}
          {{ . }}: {{ $values.pod.gpu.count }}
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
  volumes:
    - name: scratch
      emptyDir:
        sizeLimit: {{ $values.pod.scratch.sizeLimit | quote }}
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: 1Gi
    - name: weights
      {{- if $values.pod.weightsCache.claim }}
      persistentVolumeClaim:
        claimName: {{ $values.pod.weightsCache.claim | quote }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ $values.pod.weightsCache.sizeLimit | quote }}
      {{- end }}
{{- end }}
