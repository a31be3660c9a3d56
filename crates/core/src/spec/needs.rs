//! What a run has workers open on their own machines.

use std::path::Path;

use super::{Connection, EmbeddingSpec, RunSpec};
use crate::work::Role;

/// What a worker opens on its machine for a run, besides what the coordinator sends it. Each with its key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs<'a> {
    /// Folders of models.
    pub model_folders: Vec<(String, &'a Path)>,
    /// Servers, with the variables that hold their keys. The key is that of the server's table.
    pub servers: Vec<(String, Connection<'a>)>,
}

impl RunSpec {
    /// What a worker of this role opens.
    pub fn needs(&self, role: Role) -> Needs<'_> {
        let mut needs = Needs::default();
        match role {
            Role::Sampler | Role::Trainer => needs.model_folders.push(("model.path".into(), &self.model.path)),
            Role::Judge => {
                for (at, model) in self.judge.models() {
                    needs.model_folders.push((format!("{at}.path"), model.path));
                }
                let embedding = self.judge.embedding().and_then(EmbeddingSpec::folder);
                let embedding = embedding.map(|folder| ("judge.writer.embedding.path".to_owned(), folder));
                needs.model_folders.extend(embedding);
                needs.servers.extend(self.judge.connections());
            }
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::full;

    #[test]
    fn what_scores_pictures_is_asked_and_loaded_by_leave_alone() {
        let mut spec = full();
        let members: toml::Table = r#"
            family = "ensemble"
            [[members]]
            family = "clip"
            path = "pickscore"
            [[members]]
            family = "scorer"
            endpoint = "http://localhost/score"
            api_key_env = "GAVEL_JUDGE_KEY"
            [[members]]
            family = "evaluator"
        "#
        .parse()
        .unwrap();
        spec.judge = members.try_into().unwrap();
        let needs = spec.needs(Role::Judge);
        assert_eq!(
            needs.model_folders,
            [("judge.members[0].path".to_owned(), Path::new("pickscore"))]
        );
        let [(at, server)] = needs.servers.as_slice() else {
            panic!("one server: {needs:?}");
        };
        assert_eq!(at, "judge.members[1]");
        assert_eq!(
            (server.base(), server.api_key_env),
            ("http://localhost/score", Some("GAVEL_JUDGE_KEY"))
        );
    }

    #[test]
    fn servers_that_write_and_embed_are_asked_by_leave_alone() {
        let mut spec = full();
        let writer: toml::Table = r#"
            template = "write.toml"
            family = "openai"
            endpoint = "http://localhost/v1"
            model = "writer"
            api_key_env = "GAVEL_JUDGE_WRITER"
            embedding = { family = "openai", endpoint = "http://localhost/embed", model = "embedder", api_key_env = "OTHER" }
        "#
        .parse()
        .unwrap();
        spec.judge.writer = Some(writer.try_into().unwrap());
        let needs = spec.needs(Role::Judge);
        let servers = needs.servers.iter().skip(1);
        let told: Vec<_> = servers
            .map(|(at, server)| (at.as_str(), server.base(), server.api_key_env))
            .collect();
        assert_eq!(
            told,
            [
                ("judge.writer", "http://localhost/v1", Some("GAVEL_JUDGE_WRITER")),
                ("judge.writer.embedding", "http://localhost/embed", Some("OTHER")),
            ]
        );
        assert!(
            needs
                .model_folders
                .iter()
                .all(|(at, _)| !at.starts_with("judge.writer"))
        );
    }

    #[test]
    fn each_role_needs_what_it_opens() {
        let spec = full();
        for role in [Role::Sampler, Role::Trainer] {
            let needs = spec.needs(role);
            assert_eq!(
                needs.model_folders,
                [("model.path".to_owned(), spec.model.path.as_path())]
            );
            assert!(needs.servers.is_empty());
        }
        let needs = spec.needs(Role::Judge);
        let keys = |places: Vec<&String>| places.into_iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(
            keys(needs.model_folders.iter().map(|(key, _)| key).collect()),
            "judge.members[0].path judge.held_out.path judge.writer.path judge.writer.embedding.path"
        );
        assert_eq!(
            keys(needs.servers.iter().map(|(key, _)| key).collect()),
            "judge.members[1]"
        );
    }
}
