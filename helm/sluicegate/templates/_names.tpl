{{- define "sluicegate.fullname" -}}
{{- $name := contains "sluicegate" .Release.Name | ternary .Release.Name (printf "%s-sluicegate" .Release.Name) -}}
{{- default ($name | trunc 40 | trimSuffix "-") .Values.fullnameOverride -}}
{{- end -}}

{{- define "sluicegate.selector" -}}
app.kubernetes.io/name: sluicegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluicegate.labels" -}}
{{ include "sluicegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "sluicegate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sluicegate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "sluicegate.tlsSecret" -}}
{{- default (printf "%s-tls" (include "sluicegate.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "sluicegate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* sluicegate.yaml: what the operator wrote, and over it what must agree with the pod. */}}
{{- define "sluicegate.config" -}}
{{- $protection := dict "behind_proxy" true -}}
{{- if not .Values.behindProxy -}}
{{- $protection = dict "tls" (dict "certificate" "/etc/sluicegate/tls/tls.crt" "key" "/etc/sluicegate/tls/tls.key") -}}
{{- end -}}
{{- $bundle := dict "bundle" "/etc/sluicegate/policy/bundle.tar.gz" "verification_key" "/etc/sluicegate/policy/verification.pem" -}}
{{- $owned := dict
  "state_dir" "/var/lib/sluicegate"
  "data" (merge (dict "listen" "0.0.0.0:8080") $protection)
  "console" (merge (dict "listen" "0.0.0.0:8081") $protection)
  "ops" (merge (dict "listen" "0.0.0.0:8082") $protection)
  "policy" $bundle
-}}
{{- mustMergeOverwrite (deepCopy .Values.config) $owned | toYaml -}}
{{- end -}}
