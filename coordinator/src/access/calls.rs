//! What each call needs: the one table.

use http::Method;

use super::Permission;

/// What the gRPC method with this path needs; `None` where there is no such method.
pub(crate) fn needed(path: &str) -> Option<Permission> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let needed = match (service, method) {
        ("gavel.v1.Runs", "Submit" | "Cancel" | "Pause" | "Resume" | "ChangeSteps" | "RollBack" | "Drain") => {
            Permission::Submit
        }
        ("gavel.v1.Runs", "Get" | "List" | "Watch" | "History" | "ListWorkers") => Permission::View,
        // Workers read the run that they have a unit of.
        ("gavel.v1.Runs", "GetSpec") => Permission::Read,
        ("gavel.v1.Blobs", "Get" | "Missing") => Permission::Read,
        ("gavel.v1.Blobs", "Put" | "Allot" | "Confirm") => Permission::Store,
        (
            "gavel.v1.Fleet",
            "Register" | "Lease" | "Heartbeat" | "Complete" | "Fail" | "Release" | "Rally" | "Join" | "RecallVerdicts"
            | "KeepVerdicts" | "Hold" | "Deregister",
        ) => Permission::Work,
        ("grpc.health.v1.Health", "Check" | "Watch" | "List") => Permission::Nothing,
        ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo") => Permission::Read,
        _ => return None,
    };
    Some(needed)
}

/// Where somebody shows a token to the dashboard, and gives it back.
pub(crate) const LOGIN: &str = "/login";
pub(crate) const LOGOUT: &str = "/logout";
/// The picture of a browser's tab, which the page to log in has too.
pub(crate) const FAVICON: &str = "/favicon.ico";
/// What Prometheus asks for.
pub(crate) const METRICS: &str = "/metrics";
/// What probes ask for, which name the server as they like and learn nothing about it.
pub(crate) const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// What a request over HTTP needs: to look takes a viewer, and whatever is not only a look a submitter.
pub(crate) fn needed_over_http(method: &Method, path: &str) -> Permission {
    match path {
        path if PROBES.contains(&path) => Permission::Nothing,
        LOGIN | LOGOUT | FAVICON => Permission::Nothing,
        _ if matches!(*method, Method::GET | Method::HEAD) => Permission::View,
        _ => Permission::Submit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the paths that the generated code answers to, so that no new method is forgotten in the table.
    #[test]
    fn every_method_has_its_needed_permission() {
        let generated = include_str!("../../../proto/src/generated/gavel.v1.rs");
        let paths: Vec<&str> = generated
            .split('"')
            .filter(|text| text.starts_with("/gavel.v1."))
            .collect();
        assert!(paths.len() >= 26, "only {} paths found", paths.len());
        for path in paths {
            let needed = needed(path);
            assert!(
                needed.is_some_and(|needed| needed != Permission::Nothing),
                "{path} needs {needed:?}: it has to stand in the table"
            );
        }
        for path in ["/gavel.v1.Runs/Delete", "/gavel.v1.Runs", "gavel.v1.Runs/Get", "/", ""] {
            assert_eq!(needed(path), None, "{path}");
        }
    }

    #[test]
    fn over_http_looking_takes_a_viewer_and_everything_else_more() {
        for (method, path, expected) in [
            (Method::GET, "/healthz", Permission::Nothing),
            (Method::GET, "/readyz", Permission::Nothing),
            (Method::POST, "/login", Permission::Nothing),
            (Method::GET, "/favicon.ico", Permission::Nothing),
            (Method::GET, "/", Permission::View),
            (Method::GET, "/runs/quickstart", Permission::View),
            (Method::GET, "/assets/x/style.css", Permission::View),
            (Method::GET, "/metrics", Permission::View),
            (Method::GET, "/api/v1/blobs/x", Permission::View),
            (Method::HEAD, "/api/v1/runs", Permission::View),
            (Method::POST, "/api/v1/runs/x/cancel", Permission::Submit),
            (Method::POST, "/api/v1/drain", Permission::Submit),
            (Method::DELETE, "/healthz/x", Permission::Submit),
        ] {
            assert_eq!(needed_over_http(&method, path), expected, "{method} {path}");
        }
    }
}
