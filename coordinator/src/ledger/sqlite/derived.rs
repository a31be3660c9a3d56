//! Snapshots, and what steps came to.

use gavel_core::ids::{RunId, Step};

use super::super::rows::{commit_records, details_records, signed, snapshot_record};
use super::super::{CommitRecord, DetailsRecord, LedgerError, SnapshotRecord, StepRecords};
use super::SqliteLedger;

impl SqliteLedger {
    pub(super) async fn read_snapshot(&self, run: &RunId) -> Result<Option<SnapshotRecord>, LedgerError> {
        let row = sqlx::query(
            "SELECT sequence, at_unix_ms, chain, version, state, checksum FROM snapshots WHERE run_id = ?1",
        )
        .bind(&run.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(|error| self.failure("read a snapshot", error))?;
        row.map(|row| snapshot_record(run, &row)).transpose()
    }

    pub(super) async fn write_snapshot(&self, snapshot: &SnapshotRecord) -> Result<(), LedgerError> {
        const ACTION: &str = "keep a snapshot";
        let mut transaction = self.begin(ACTION).await?;
        sqlx::query(
            "INSERT OR REPLACE INTO snapshots (run_id, sequence, at_unix_ms, chain, version, state, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(&snapshot.run.0)
        .bind(signed(snapshot.position.events))
        .bind(signed(snapshot.at.0))
        .bind(snapshot.position.chain.0.as_slice())
        .bind(i64::from(snapshot.version))
        .bind(&snapshot.state)
        .bind(snapshot.checksum.0.as_slice())
        .execute(&mut *transaction)
        .await
        .map_err(|error| self.failure(ACTION, error))?;
        transaction.commit().await.map_err(|error| self.failure(ACTION, error))
    }

    pub(super) async fn read_details(
        &self,
        run: &RunId,
        first: Step,
        most: u64,
    ) -> Result<Vec<DetailsRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT step, result, checksum FROM details WHERE run_id = ?1 AND step >= ?2 ORDER BY step LIMIT ?3",
        )
        .bind(&run.0)
        .bind(i64::from(first.0))
        .bind(signed(most))
        .fetch_all(&self.readers)
        .await
        .map_err(|error| self.failure("read details of steps", error))?;
        details_records(run, first, &rows)
    }

    pub(super) async fn read_commits(
        &self,
        run: &RunId,
        first: Step,
        most: u64,
    ) -> Result<Vec<CommitRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT step, result, checksum FROM commits WHERE run_id = ?1 AND step >= ?2 ORDER BY step LIMIT ?3",
        )
        .bind(&run.0)
        .bind(i64::from(first.0))
        .bind(signed(most))
        .fetch_all(&self.readers)
        .await
        .map_err(|error| self.failure("read commits", error))?;
        commit_records(run, first, &rows)
    }

    pub(super) async fn write_steps(&self, steps: &StepRecords) -> Result<(), LedgerError> {
        const ACTION: &str = "keep what steps came to";
        let mut transaction = self.begin(ACTION).await?;
        for record in &steps.commits {
            sqlx::query("INSERT OR REPLACE INTO commits (run_id, step, result, checksum) VALUES (?1, ?2, ?3, ?4)")
                .bind(&record.run.0)
                .bind(i64::from(record.step.0))
                .bind(&record.commit)
                .bind(record.checksum.0.as_slice())
                .execute(&mut *transaction)
                .await
                .map_err(|error| self.failure(ACTION, error))?;
        }
        for record in &steps.details {
            sqlx::query("INSERT OR REPLACE INTO details (run_id, step, result, checksum) VALUES (?1, ?2, ?3, ?4)")
                .bind(&record.run.0)
                .bind(i64::from(record.step.0))
                .bind(&record.result)
                .bind(record.checksum.0.as_slice())
                .execute(&mut *transaction)
                .await
                .map_err(|error| self.failure(ACTION, error))?;
        }
        transaction.commit().await.map_err(|error| self.failure(ACTION, error))
    }
}
