//! The history of each database's schema, embedded in the program.
//!
//! sqlx's macro would do this, but it compiles the drivers of all databases a second time, for the machine that builds.

use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A file of `migrations/`: its number, its description, its SQL. What was released never changes, since a ledger remembers
/// description and hash of what was applied to it.
type Step = (i64, &'static str, &'static str);

pub(super) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (
            1,
            "runs and events",
            include_str!("../../migrations/sqlite/0001_runs_and_events.sql"),
        ),
        (2, "verdicts", include_str!("../../migrations/sqlite/0002_verdicts.sql")),
        (
            3,
            "chain and identity",
            include_str!("../../migrations/sqlite/0003_chain_and_identity.sql"),
        ),
        (
            4,
            "snapshots and details",
            include_str!("../../migrations/sqlite/0004_snapshots_and_details.sql"),
        ),
        (5, "commits", include_str!("../../migrations/sqlite/0005_commits.sql")),
    ])
});

#[cfg(feature = "postgres")]
pub(super) static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (
            1,
            "runs events and leadership",
            include_str!("../../migrations/postgres/0001_runs_events_and_leadership.sql"),
        ),
        (
            2,
            "verdicts",
            include_str!("../../migrations/postgres/0002_verdicts.sql"),
        ),
        (
            3,
            "chain and identity",
            include_str!("../../migrations/postgres/0003_chain_and_identity.sql"),
        ),
        (
            4,
            "snapshots and details",
            include_str!("../../migrations/postgres/0004_snapshots_and_details.sql"),
        ),
        (5, "commits", include_str!("../../migrations/postgres/0005_commits.sql")),
    ])
});

fn migrator(steps: &[Step]) -> Migrator {
    let migrations = steps.iter().map(|(version, description, sql)| {
        Migration::new(
            *version,
            (*description).into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Reads the folder as sqlx reads it.
    async fn in_folder(database: &str) -> Vec<(i64, String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
        facts(&Migrator::new(folder).await.expect("a folder of migrations"))
    }

    fn facts(migrator: &Migrator) -> Vec<(i64, String, Vec<u8>)> {
        migrator
            .iter()
            .map(|step| (step.version, step.description.to_string(), step.checksum.to_vec()))
            .collect()
    }

    #[tokio::test]
    async fn every_file_of_the_folder_is_embedded_under_its_number_and_description() {
        assert_eq!(facts(&SQLITE), in_folder("sqlite").await);
        #[cfg(feature = "postgres")]
        assert_eq!(facts(&POSTGRES), in_folder("postgres").await);
    }
}
