{{/* Names, labels and settings that several templates share. */}}

{{- define "darner.name" -}}
{{- if contains "darner" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-darner" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "darner.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Call with (list . "role"). */}}
{{- define "darner.selector" -}}
app.kubernetes.io/name: darner
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "darner.labels" -}}
{{ include "darner.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: darner-{{ (index . 0).Chart.Version }}
{{- end }}

{{/* The settings every role has, as TOML. Per-pod settings come from the environment. */}}
{{- define "darner.settings" -}}
data_dir = "/var/lib/darner"

[identity]
insecure = {{ .Values.identity.insecure }}

{{- end }}

{{- define "darner.managerAddress" -}}
http://{{ include "darner.name" . }}-manager.{{ .Release.Namespace }}.svc:7423
{{- end }}

{{- define "darner.upstreams" -}}
[registry]
default_upstream = {{ .Values.defaultUpstream | quote }}
{{- range .Values.upstreams }}

[[upstream]]
name = {{ .name | quote }}
url = {{ .url | quote }}
{{- with .tag_ttl }}
tag_ttl = {{ . | quote }}
{{- end }}
{{- with .max_connections }}
max_connections = {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "darner.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Call with the admin port's name. */}}
{{- define "darner.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: {{ . }} }
  periodSeconds: 2
  failureThreshold: 30
readinessProbe:
  httpGet: { path: /readyz, port: {{ . }} }
  periodSeconds: 5
livenessProbe:
  httpGet: { path: /healthz, port: {{ . }} }
  periodSeconds: 20
  failureThreshold: 6
{{- end }}
