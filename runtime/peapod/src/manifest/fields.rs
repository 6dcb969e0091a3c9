//! Which fields of the Kubernetes API mean something here.
//!
//! What is in none of these tables is refused by name, so a manifest never runs with a part of it
//! silently left out, and a field Kubernetes adds tomorrow is refused until it is served.
//!
//! A path is written without indices, and `containers` stands for `initContainers` as well.

use serde_json::Value;

/// Fields that are honoured. A field's own fields are listed too.
const SERVED: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "spec",
    "spec.containers",
    "spec.containers[].args",
    "spec.containers[].command",
    "spec.containers[].env",
    "spec.containers[].env[].name",
    "spec.containers[].env[].value",
    "spec.containers[].image",
    "spec.containers[].name",
    "spec.containers[].ports",
    "spec.containers[].ports[].containerPort",
    "spec.containers[].ports[].hostIP",
    "spec.containers[].ports[].hostPort",
    "spec.containers[].ports[].name",
    "spec.containers[].ports[].protocol",
    "spec.containers[].resources",
    "spec.containers[].resources.limits",
    "spec.containers[].resources.requests",
    "spec.containers[].securityContext",
    "spec.containers[].securityContext.allowPrivilegeEscalation",
    "spec.containers[].securityContext.capabilities",
    "spec.containers[].securityContext.capabilities.add",
    "spec.containers[].securityContext.capabilities.drop",
    "spec.containers[].securityContext.privileged",
    "spec.containers[].securityContext.readOnlyRootFilesystem",
    "spec.containers[].securityContext.runAsGroup",
    "spec.containers[].securityContext.runAsNonRoot",
    "spec.containers[].securityContext.runAsUser",
    "spec.containers[].stdin",
    "spec.containers[].tty",
    "spec.containers[].volumeMounts",
    "spec.containers[].volumeMounts[].mountPath",
    "spec.containers[].volumeMounts[].mountPropagation",
    "spec.containers[].volumeMounts[].name",
    "spec.containers[].volumeMounts[].readOnly",
    "spec.containers[].volumeMounts[].subPath",
    "spec.containers[].workingDir",
    "spec.dnsConfig",
    "spec.dnsConfig.nameservers",
    "spec.dnsConfig.options",
    "spec.dnsConfig.options[].name",
    "spec.dnsConfig.options[].value",
    "spec.dnsConfig.searches",
    "spec.dnsPolicy",
    "spec.hostAliases",
    "spec.hostAliases[].hostnames",
    "spec.hostAliases[].ip",
    "spec.hostIPC",
    "spec.hostNetwork",
    "spec.hostPID",
    "spec.hostname",
    "spec.initContainers",
    "spec.restartPolicy",
    "spec.securityContext",
    "spec.securityContext.fsGroup",
    "spec.securityContext.runAsGroup",
    "spec.securityContext.runAsNonRoot",
    "spec.securityContext.runAsUser",
    "spec.securityContext.supplementalGroups",
    "spec.shareProcessNamespace",
    "spec.terminationGracePeriodSeconds",
    "spec.volumes",
    "spec.volumes[].emptyDir",
    "spec.volumes[].emptyDir.medium",
    "spec.volumes[].emptyDir.sizeLimit",
    "spec.volumes[].hostPath",
    "spec.volumes[].hostPath.path",
    "spec.volumes[].hostPath.type",
    "spec.volumes[].name",
];

/// Fields that are accepted with everything below them although nothing is done with them: what
/// they ask for is decided elsewhere (a scheduler, an API server, a registry), or is so already.
const HARMLESS: &[&str] = &[
    // Bookkeeping of the API server; what `kubectl get -o yaml` prints can be run as it is.
    "metadata.creationTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.finalizers",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.ownerReferences",
    "metadata.resourceVersion",
    "metadata.selfLink",
    "metadata.uid",
    "status",
    // Choice of the node: the pod runs on this one.
    "spec.affinity",
    "spec.nodeName",
    "spec.nodeSelector",
    "spec.preemptionPolicy",
    "spec.priority",
    "spec.priorityClassName",
    "spec.runtimeClassName",
    "spec.schedulerName",
    "spec.tolerations",
    "spec.topologySpreadConstraints",
    // Identity towards an API server, and links to services of a cluster: there is none.
    "spec.automountServiceAccountToken",
    "spec.enableServiceLinks",
    "spec.serviceAccount",
    "spec.serviceAccountName",
    // Images are loaded beforehand.
    "spec.containers[].imagePullPolicy",
    "spec.imagePullSecrets",
    // How much of an emptyDir to re-own: all of a new directory.
    "spec.securityContext.fsGroupChangePolicy",
    // A message for an API server to show.
    "spec.containers[].terminationMessagePath",
    "spec.containers[].terminationMessagePolicy",
];

/// Fields that are accepted with one value: the one that asks for nothing.
const ONE_VALUE: &[(&str, &str)] = &[
    ("spec.containers[].securityContext.procMount", "Default"),
    ("spec.containers[].securityContext.appArmorProfile.type", "Unconfined"),
    ("spec.containers[].securityContext.seccompProfile.type", "Unconfined"),
    ("spec.containers[].stdinOnce", "false"),
    ("spec.containers[].volumeMounts[].recursiveReadOnly", "Disabled"),
    ("spec.hostUsers", "true"),
    ("spec.os.name", "linux"),
    ("spec.securityContext.appArmorProfile.type", "Unconfined"),
    ("spec.securityContext.seccompProfile.type", "Unconfined"),
    ("spec.securityContext.supplementalGroupsPolicy", "Merge"),
    ("spec.setHostnameAsFQDN", "false"),
];

/// What can be done instead of some fields that are refused.
const INSTEAD: &[(&str, &str)] = &[
    ("metadata.generateName", "set metadata.name"),
    ("spec.containers[].env[].valueFrom", "set value"),
    ("spec.containers[].envFrom", "list the variables under env"),
    ("spec.containers[].restartPolicy", "list it under spec.containers"),
    ("spec.volumes[].persistentVolumeClaim", "use a hostPath"),
    ("spec.volumes[].configMap", "use a hostPath"),
    ("spec.volumes[].secret", "use a hostPath"),
];

/// Why a field that Kubernetes knows is refused here; `None` when it is not.
pub(super) fn refusal(path: &str, value: &Value) -> Option<String> {
    let pattern = pattern(path);
    let one_value = ONE_VALUE.iter().find(|(field, _)| *field == pattern);
    if absent(value) || SERVED.contains(&pattern.as_str()) || harmless(&pattern) {
        return None;
    }
    // A structure around a field with one value is judged by that field.
    if value.is_object() && ONE_VALUE.iter().any(|(field, _)| below(field, &pattern)) {
        return None;
    }
    if let Some((_, only)) = one_value {
        let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return (given != *only).then(|| format!("{given:?} is not supported yet; only {only:?} is"));
    }
    let instead = INSTEAD.iter().find(|(field, _)| *field == pattern).map(|(_, instead)| format!("; {instead}"));
    Some(format!("not supported yet{}", instead.unwrap_or_default()))
}

/// What to say of a key that is no field, given those that are.
pub(super) fn unknown(key: &str, fields: &[&str]) -> String {
    match closest(key, fields.iter().copied()) {
        Some(field) => format!("no such field; did you mean {field}?"),
        None => "no such field".to_owned(),
    }
}

/// The candidate a misspelt word most likely means, if any is near enough.
pub(super) fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let small = word.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&small, &candidate.to_lowercase());
    let (steps, candidate) = candidates.map(|candidate| (distance(candidate), candidate)).min()?;
    (steps <= word.len() / 3).then_some(candidate)
}

fn harmless(pattern: &str) -> bool {
    HARMLESS.iter().any(|field| *field == pattern || below(pattern, field))
}

/// Whether one path leads into what another one names.
pub(super) fn below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
}

/// An empty value asks for nothing, whatever the field.
fn absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// `spec.initContainers[3].env[0]` becomes `spec.containers[].env[]`.
fn pattern(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    let mut inside = false;
    for letter in path.chars() {
        inside = (inside || letter == '[') && letter != ']';
        if !inside || letter == '[' {
            pattern.push(letter);
        }
    }
    match pattern.strip_prefix("spec.initContainers[]") {
        Some(rest) => format!("spec.containers[]{rest}"),
        None => pattern,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_not_served_is_refused_by_name() {
        let probe = json!({"httpGet": {}});
        assert_eq!(refusal("spec.containers[0].livenessProbe", &probe).unwrap(), "not supported yet");
        assert_eq!(
            refusal("spec.initContainers[2].restartPolicy", &json!("Always")).unwrap(),
            "not supported yet; list it under spec.containers"
        );
        assert!(refusal("spec.volumes[1].persistentVolumeClaim", &json!({})).unwrap().contains("hostPath"));
    }

    #[test]
    fn what_asks_for_nothing_is_accepted() {
        for (path, value) in [
            ("spec.tolerations[0].key", json!("x")),
            ("status.conditions", json!([1])),
            ("spec.containers[0].livenessProbe", Value::Null),
            ("spec.ephemeralContainers", json!([])),
            ("spec.securityContext.seccompProfile", json!({"type": "Unconfined"})),
            ("spec.securityContext.seccompProfile.type", json!("Unconfined")),
            ("spec.hostUsers", json!(true)),
            ("spec.containers[0].imagePullPolicy", json!("IfNotPresent")),
        ] {
            assert_eq!(refusal(path, &value), None, "{path}");
        }
        assert!(refusal("spec.hostUsers", &json!(false)).unwrap().contains("true"));
        assert!(refusal("spec.securityContext.seccompProfile.type", &json!("RuntimeDefault")).is_some());
    }

    #[test]
    fn the_tables_agree_with_the_api() {
        // Each row is a path, and no row contradicts another.
        for field in SERVED {
            assert!(!harmless(field), "{field} is in two tables");
            assert!(!ONE_VALUE.iter().any(|(other, _)| other == field), "{field} is in two tables");
        }
        for (field, _) in INSTEAD {
            assert!(!SERVED.contains(field) && !harmless(field), "{field} is both refused and accepted");
        }
    }

    #[test]
    fn a_suggestion_is_near_or_none() {
        let fields = ["image", "imagePullPolicy", "name"];
        assert_eq!(closest("imgae", fields.into_iter()), Some("image"));
        assert_eq!(closest("imagepullpolicy", fields.into_iter()), Some("imagePullPolicy"));
        assert_eq!(closest("x", fields.into_iter()), None);
    }
}
