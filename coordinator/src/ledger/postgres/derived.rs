//! Snapshots, and what steps came to.

use gavel_core::ids::{RunId, Step};

use super::super::rows::{commit_records, details_records, signed, snapshot_record};
use super::super::{CommitRecord, DetailsRecord, LedgerError, SnapshotRecord, StepRecords};
use super::{FENCE, PostgresLedger};

impl PostgresLedger {
    pub(super) async fn read_snapshot(&self, run: &RunId) -> Result<Option<SnapshotRecord>, LedgerError> {
        let row = sqlx::query(
            "SELECT sequence, at_unix_ms, chain, version, state, checksum FROM snapshots WHERE run_id = $1",
        )
        .bind(&run.0)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failure("read a snapshot", error))?;
        row.map(|row| snapshot_record(run, &row)).transpose()
    }

    pub(super) async fn write_snapshot(&self, snapshot: &SnapshotRecord) -> Result<(), LedgerError> {
        let insert = format!(
            "{FENCE} INSERT INTO snapshots (run_id, sequence, at_unix_ms, chain, version, state, checksum)
             SELECT $2, $3, $4, $5, $6, $7, $8 FROM fence
             ON CONFLICT (run_id) DO UPDATE SET sequence = EXCLUDED.sequence, at_unix_ms = EXCLUDED.at_unix_ms,
                 chain = EXCLUDED.chain, version = EXCLUDED.version, state = EXCLUDED.state, checksum = EXCLUDED.checksum"
        );
        let stored = sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(self.term())
            .bind(&snapshot.run.0)
            .bind(signed(snapshot.position.events))
            .bind(signed(snapshot.at.0))
            .bind(snapshot.position.chain.0.as_slice())
            .bind(i64::from(snapshot.version))
            .bind(&snapshot.state)
            .bind(snapshot.checksum.0.as_slice())
            .execute(&self.pool)
            .await
            .map_err(|error| self.failure("keep a snapshot", error))?;
        match stored.rows_affected() {
            0 => Err(self.deposed()),
            _ => Ok(()),
        }
    }

    pub(super) async fn read_details(
        &self,
        run: &RunId,
        first: Step,
        most: u64,
    ) -> Result<Vec<DetailsRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT step, result, checksum FROM details WHERE run_id = $1 AND step >= $2 ORDER BY step LIMIT $3",
        )
        .bind(&run.0)
        .bind(i64::from(first.0))
        .bind(signed(most))
        .fetch_all(&self.pool)
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
            "SELECT step, result, checksum FROM commits WHERE run_id = $1 AND step >= $2 ORDER BY step LIMIT $3",
        )
        .bind(&run.0)
        .bind(i64::from(first.0))
        .bind(signed(most))
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failure("read commits", error))?;
        commit_records(run, first, &rows)
    }

    pub(super) async fn write_steps(&self, steps: &StepRecords) -> Result<(), LedgerError> {
        const ACTION: &str = "keep what steps came to";
        let mut transaction = self.pool.begin().await.map_err(|error| self.failure(ACTION, error))?;
        let commits = steps.commits.iter();
        let commits = commits.map(|record| (&record.run, record.step, record.commit.as_str(), &record.checksum));
        let details = steps.details.iter();
        let details = details.map(|record| (&record.run, record.step, record.result.as_str(), &record.checksum));
        for (table, rows) in [("commits", commits.collect::<Vec<_>>()), ("details", details.collect())] {
            if rows.is_empty() {
                continue;
            }
            let insert = format!(
                "{FENCE} INSERT INTO {table} (run_id, step, result, checksum)
                 SELECT step.* FROM UNNEST($2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::BYTEA[]) AS step, fence
                 ON CONFLICT (run_id, step) DO UPDATE SET result = EXCLUDED.result, checksum = EXCLUDED.checksum"
            );
            let runs: Vec<&str> = rows.iter().map(|(run, ..)| run.0.as_str()).collect();
            let steps: Vec<i64> = rows.iter().map(|(_, step, ..)| i64::from(step.0)).collect();
            let texts: Vec<&str> = rows.iter().map(|(_, _, text, _)| *text).collect();
            let checksums: Vec<&[u8]> = rows.iter().map(|(.., checksum)| checksum.0.as_slice()).collect();
            let stored = sqlx::query(sqlx::AssertSqlSafe(insert))
                .bind(self.term())
                .bind(&runs)
                .bind(&steps)
                .bind(&texts)
                .bind(&checksums)
                .execute(&mut *transaction)
                .await
                .map_err(|error| self.failure(ACTION, error))?;
            if stored.rows_affected() == 0 {
                return Err(self.deposed());
            }
        }
        transaction.commit().await.map_err(|error| self.failure(ACTION, error))
    }
}
