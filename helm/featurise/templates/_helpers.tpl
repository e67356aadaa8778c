{{/* Of every object of this chart. */}}
{{- define "featurise.labels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "featurise" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Which pods are extractors of this release. */}}
{{- define "featurise.extractors" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "featurise" }}-extractor
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* How the names of Airflow's own chart begin: its `airflow.fullname` under `useStandardNaming`. */}}
{{- define "featurise.airflow" -}}
{{- $airflow := .Values.airflow -}}
{{- if and $airflow.enabled (not (dig "useStandardNaming" true $airflow)) }}
{{- fail "airflow.useStandardNaming: leave it true, since the names of Airflow's objects are read from it" }}
{{- end }}
{{- $name := $airflow.nameOverride | default "airflow" -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $airflow.fullnameOverride | default $full | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/*
Service accounts of the Airflow that is installed with this chart, unless others are named: tasks run in the scheduler
and wait in the triggerer. Named as Airflow's chart names them.
*/}}
{{- define "featurise.launchers" -}}
{{- if .Values.launchers }}
{{- toYaml .Values.launchers }}
{{- else if .Values.airflow.enabled }}
{{- range $role := list "scheduler" "triggerer" }}
{{- $account := dig $role "serviceAccount" (dict) $.Values.airflow }}
{{- $made := printf "%s-%s" (include "featurise.airflow" $) $role }}
- name: {{ $account.name | default (dig "create" true $account | ternary $made "default") }}
{{- end }}
{{- end }}
{{- end }}

{{/* Secrets for the image registry, named plainly or as Kubernetes has them: {name: …}. */}}
{{- define "featurise.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ kindIs "map" . | ternary (dig "name" "" (kindIs "map" . | ternary . (dict))) . | quote }}
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

{{/* What a pod must be to be admitted under the Pod Security standard `restricted`: the container's part. */}}
{{- define "featurise.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Airflow's chart does not know this chart's list, and its pods would wait for images that they may not pull. */}}
{{- define "featurise.pullable" -}}
{{- $airflow := .Values.airflow -}}
{{- if and .Values.imagePullSecrets $airflow.enabled (not $airflow.imagePullSecrets) (not (dig "registry" "secretName" "" $airflow)) }}
{{- fail "imagePullSecrets: Airflow's own pods take theirs from airflow.registry.secretName (one) or airflow.imagePullSecrets; name them there, too" }}
{{- end }}
{{- end }}
