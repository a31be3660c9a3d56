use gavel_core::spec::{InProcessSpec, JudgeBackEnd, ScorerSpec, ServerSpec};

use super::*;

fn server(endpoint: &str, variable: Option<&str>) -> RunSpec {
    let mut spec = RunSpec::default();
    spec.judge.back_end = ServerSpec {
        endpoint: endpoint.into(),
        model: "vlm".into(),
        api_key_env: variable.map(str::to_owned),
        ..ServerSpec::default()
    }
    .into();
    spec
}

fn folder(path: impl Into<PathBuf>) -> RunSpec {
    let mut spec = RunSpec::default();
    spec.model.path = path.into();
    spec
}

fn below(folder: &Path) -> Allowed {
    Allowed {
        model_folders: vec![folder.to_owned()],
        ..Allowed::default()
    }
}

#[test]
fn without_leave_judges_ask_this_machine_alone_and_send_keys_that_are_meant_for_it() {
    let allowed = Allowed::default();
    let check = |endpoint, variable| allowed.check(&server(endpoint, variable), Role::Judge);
    assert_eq!(check("http://127.0.0.1:8000/v1", None), Ok(()));
    assert_eq!(check("http://localhost:8000/v1", Some("GAVEL_JUDGE_KEY")), Ok(()));
    for endpoint in [
        "http://attacker.example",
        "http://169.254.169.254/latest",
        "http://10.0.0.1:8000/v1",
        "nonsense",
    ] {
        let refused = check(endpoint, None).unwrap_err();
        assert!(
            matches!(&refused, NotAllowed::Endpoint { key, .. } if key == "judge.endpoint"),
            "{refused}"
        );
        assert!(refused.hint().unwrap().contains("--allow-endpoint"), "{refused}");
    }
    for variable in [
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "GAVEL_JUDGE",
        "MY_GAVEL_JUDGE_KEY",
    ] {
        let refused = check("http://127.0.0.1:8000/v1", Some(variable)).unwrap_err();
        assert!(
            matches!(&refused, NotAllowed::KeyVariable { key, .. } if key == "judge.api_key_env"),
            "{refused}"
        );
        assert!(refused.hint().unwrap().contains("--allow-key-variable"), "{refused}");
    }
}

#[test]
fn a_server_that_scores_needs_the_same_leave() {
    let mut spec = RunSpec::default();
    spec.judge.back_end = ScorerSpec {
        endpoint: "https://scores.example/score".into(),
        api_key_env: Some("SCORES_KEY".into()),
        ..ScorerSpec::default()
    }
    .into();
    let refused = Allowed::default().check(&spec, Role::Judge).unwrap_err();
    assert!(
        matches!(&refused, NotAllowed::Endpoint { key, .. } if key == "judge.endpoint"),
        "{refused}"
    );
    let only_asked = Allowed {
        endpoints: vec!["https://scores.example".parse().unwrap()],
        ..Allowed::default()
    };
    let refused = only_asked.check(&spec, Role::Judge).unwrap_err();
    assert!(
        matches!(&refused, NotAllowed::KeyVariable { variable, .. } if variable == "SCORES_KEY"),
        "{refused}"
    );
    assert_eq!(Allowed::by(&spec, Role::Judge).check(&spec, Role::Judge), Ok(()));
}

#[test]
fn leave_is_for_what_it_names() {
    let allowed = Allowed {
        endpoints: vec!["https://judge.example/v1".parse().unwrap()],
        key_variables: vec!["JUDGE_KEY".into()],
        ..Allowed::default()
    };
    let check = |endpoint, variable| allowed.check(&server(endpoint, variable), Role::Judge).is_ok();
    assert!(check("https://judge.example/v1", Some("JUDGE_KEY")));
    assert!(!check("https://judge.example/v1", Some("JUDGE_KEY_2")));
    assert!(!check("https://judge.example/v1/../admin", None));
    assert!(!check("http://127.0.0.1:8000/v1", None));
}

#[test]
fn a_folder_is_within_another_as_it_is_written_and_as_links_lead_and_never_by_climbing() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    std::fs::create_dir_all(models.join("judge")).unwrap();
    std::fs::create_dir_all(root.path().join("models-elsewhere")).unwrap();
    std::os::unix::fs::symlink(root.path().join("models-elsewhere"), models.join("linked")).unwrap();
    std::os::unix::fs::symlink(&models, root.path().join("link")).unwrap();
    let allowed = below(&models);
    let check = |path: &str| allowed.check(&folder(root.path().join(path)), Role::Trainer).is_ok();
    assert!(check("models") && check("models/judge") && check("models/linked") && check("link/judge"));
    assert!(check("models/judge/../judge"), "it leads to where it may");
    for path in [
        "",
        "models-elsewhere",
        "models/../models-elsewhere",
        "models/linked/../secret",
        "models/../../etc",
    ] {
        assert!(!check(path), "{path}");
    }
    assert!(allowed.check(&folder(""), Role::Sampler).is_err());
    assert!(
        Allowed::default().check(&folder("models/any"), Role::Sampler).is_ok(),
        "below the current folder"
    );
}

#[test]
fn a_refusal_does_not_tell_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let [there, missing] = ["there", "missing"].map(|name| root.path().join(name));
    std::fs::create_dir(&there).unwrap();
    let allowed = below(&root.path().join("models"));
    let refused = |path: &Path| {
        let refused = allowed.check(&folder(path), Role::Sampler).unwrap_err();
        refused.to_string().replace(&path.display().to_string(), "it")
    };
    assert_eq!(refused(&there), refused(&missing));
}

#[test]
fn a_worker_of_the_runs_own_user_may_use_what_the_run_names_and_nothing_else() {
    let mut spec = server("https://judge.example/v1", Some("JUDGE_KEY"));
    spec.model.path = "/models/flux".into();
    for role in Role::ALL {
        assert_eq!(Allowed::by(&spec, role).check(&spec, role), Ok(()), "{role}");
    }
    let other = server("https://judge.example/v2", None);
    assert!(Allowed::by(&spec, Role::Judge).check(&other, Role::Judge).is_err());
    let hosted = RunSpec {
        judge: gavel_core::spec::JudgeSpec {
            back_end: JudgeBackEnd::from(InProcessSpec {
                path: "/models/judge".into(),
                ..InProcessSpec::default()
            }),
            ..Default::default()
        },
        ..spec.clone()
    };
    assert!(Allowed::by(&hosted, Role::Judge).check(&hosted, Role::Judge).is_ok());
    assert!(Allowed::by(&spec, Role::Judge).check(&hosted, Role::Judge).is_err());
}
