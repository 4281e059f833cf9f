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

{{/* The settings every role has, as TOML, with its lines of [manager] in the end. Per-pod settings come
     from the environment. Call with (list . "member") for who joins the manager's cluster, or with
     "alone" for who joins one without a manager. */}}
{{- define "darner.settings" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
data_dir = "/var/lib/darner"
{{- if $root.Values.identity.insecure }}

[identity]
insecure = true
{{- else if eq $kind "member" }}

[identity]
token_file = "/etc/darner-identity/token"
{{- else if eq $kind "alone" }}

[identity]
cluster_key_file = "/etc/darner-identity/cluster.key"
{{- end }}
{{- if eq $kind "member" }}

[manager]
address = {{ include "darner.managerAddress" $root | quote }}
{{- else if eq $kind "manager" }}

[manager]
{{- if not $root.Values.identity.insecure }}
join_tokens_file = "/etc/darner-identity/token"
{{- end }}
{{- end }}
{{- end }}

{{- define "darner.keySecret" -}}
{{ .Values.withoutServers.keySecret | default (printf "%s-cluster-key" (include "darner.name" .)) }}
{{- end }}

{{/* The volume with what a role joins by, and where it is mounted. Call with (list . "role"). */}}
{{- define "darner.tokenVolume" -}}
{{- $root := index . 0 -}}
{{- if not $root.Values.identity.insecure -}}
- name: identity
  secret:
    {{- if $root.Values.withoutServers.enabled }}
    secretName: {{ include "darner.keySecret" $root | quote }}
    items: [{ key: cluster.key, path: cluster.key }]
    {{- else }}
    secretName: {{ $root.Values.identity.tokensSecret | default (printf "%s-tokens" (include "darner.name" $root)) | quote }}
    items: [{ key: {{ index . 1 }}, path: token }]
    {{- end }}
{{- end }}
{{- end }}

{{- define "darner.tokenMount" -}}
{{- if not .Values.identity.insecure -}}
- { name: identity, mountPath: /etc/darner-identity, readOnly: true }
{{- end }}
{{- end }}

{{/* A new join token for the role. */}}
{{- define "darner.token" -}}
darner-join.{{ . }}.{{ randAlphaNum 64 | sha256sum | trunc 16 }}.{{ randAlphaNum 64 | sha256sum }}
{{- end }}

{{- define "darner.managerAddress" -}}
{{ if .Values.identity.insecure }}http{{ else }}https{{ end }}://{{ include "darner.name" . }}-manager.{{ .Release.Namespace }}.svc:7423
{{- end }}

{{/* Registries, as TOML. Passwords and certificates are files: see darner.upstreamFiles. */}}
{{- define "darner.upstreams" -}}
[registry]
default_upstream = {{ .Values.defaultUpstream | quote }}
{{- range $index, $upstream := .Values.upstreams }}

[[upstream]]
name = {{ .name | quote }}
url = {{ .url | quote }}
{{- with .tag_ttl }}
tag_ttl = {{ . | quote }}
{{- end }}
{{- with .max_connections }}
max_connections = {{ . }}
{{- end }}
{{- if .ca }}
ca_file = "/etc/darner-upstreams/{{ $index }}/ca.pem"
{{- end }}
{{- with .username }}
username = {{ . | quote }}
password_file = "/etc/darner-upstreams/{{ $index }}/password"
{{- end }}
{{- end }}
{{- end }}

{{/* The volume with what darner.upstreams names; empty where it names nothing. */}}
{{- define "darner.upstreamFiles" -}}
{{- range $index, $upstream := .Values.upstreams }}
{{- with .password }}
- secret:
    name: {{ .secret | quote }}
    items: [{ key: {{ .key | quote }}, path: "{{ $index }}/password" }]
{{- end }}
{{- with .ca }}
- configMap:
    name: {{ .configMap | quote }}
    items: [{ key: {{ .key | quote }}, path: "{{ $index }}/ca.pem" }]
{{- end }}
{{- end }}
{{- end }}

{{/* Who a pod's processes are. */}}
{{- define "darner.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{- define "darner.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* For the steps that write to the node, whose directories are root's. Call with the capabilities
     that are needed, a list. */}}
{{- define "darner.hostSecurityContext" -}}
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
  {{- with . }}
  add: {{ toJson . }}
  {{- end }}
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
