{{/* The name of everything: the release's, with the chart's where it does not hold it. */}}
{{- define "gavel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The labels by which pods of a role are chosen: dict "root" $ "role" ROLE. */}}
{{- define "gavel.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* All labels: dict "root" $ "role" ROLE. */}}
{{- define "gavel.labels" -}}
{{ include "gavel.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "gavel.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "gavel.fullname" .) -}}
{{- end -}}

{{/* dict "root" $ "image" what differs from .Values.image */}}
{{- define "gavel.image" -}}
{{- $image := mergeOverwrite (deepCopy .root.Values.image) (.image | default dict) -}}
image: {{ printf "%s:%s" $image.repository ($image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{/* The user of the image (deploy/Dockerfile), and no more rights than it needs. */}}
{{- define "gavel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 999
runAsGroup: 999
fsGroup: 999
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "gavel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What coordinator and workers say alike of where their pods go: the values of one of them. */}}
{{- define "gavel.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" }}
{{- with get $ $key }}
{{ $key }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The values of a role: dict "root" $ "role" ROLE. */}}
{{- define "gavel.worker" -}}
{{- mergeOverwrite (deepCopy .root.Values.workers.defaults) (get .root.Values.workers .role) | toYaml -}}
{{- end -}}

{{- define "gavel.scheme" -}}
{{- ternary "https" "http" .Values.security.tls.enabled -}}
{{- end -}}

{{/* Whether Prometheus has to be let in without what everybody else shows, because serviceMonitor names nothing that it could show. */}}
{{- define "gavel.openMetrics" -}}
{{- $monitor := .Values.serviceMonitor -}}
{{- $lacksToken := and .Values.security.tokens.enabled (not $monitor.token.secret) -}}
{{- $lacksCertificate := and .Values.security.tls.enabled .Values.security.tls.clientCertificates (not $monitor.certificate.secret) -}}
{{- and $monitor.enabled (or $lacksToken $lacksCertificate) -}}
{{- end -}}

{{/* The labels of the units of a role, state aside: dict "root" $ "role" ROLE. */}}
{{- define "gavel.unitLabels" -}}
{{- $own := dict -}}
{{- if .root.Values.serviceMonitor.enabled -}}
{{- $own = dict "namespace" .root.Release.Namespace "service" (include "gavel.fullname" .root) -}}
{{- end -}}
{{- merge (dict "role" .role) .root.Values.autoscaling.labels $own | toYaml -}}
{{- end -}}
