//! Snapshots and details of steps.

use gavel_core::ids::{RunId, Step};

use super::super::rows::{details_records, signed, snapshot_record};
use super::super::{DetailsRecord, LedgerError, SnapshotRecord};
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

    pub(super) async fn write_details(&self, details: &[DetailsRecord]) -> Result<(), LedgerError> {
        if details.is_empty() {
            return Ok(());
        }
        let runs: Vec<&str> = details.iter().map(|record| record.run.0.as_str()).collect();
        let steps: Vec<i64> = details.iter().map(|record| i64::from(record.step.0)).collect();
        let results: Vec<&str> = details.iter().map(|record| record.result.as_str()).collect();
        let checksums: Vec<&[u8]> = details.iter().map(|record| record.checksum.0.as_slice()).collect();
        let insert = format!(
            "{FENCE} INSERT INTO details (run_id, step, result, checksum)
             SELECT step.* FROM UNNEST($2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::BYTEA[]) AS step, fence
             ON CONFLICT (run_id, step) DO UPDATE SET result = EXCLUDED.result, checksum = EXCLUDED.checksum"
        );
        let stored = sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(self.term())
            .bind(&runs)
            .bind(&steps)
            .bind(&results)
            .bind(&checksums)
            .execute(&self.pool)
            .await
            .map_err(|error| self.failure("keep details of steps", error))?;
        match stored.rows_affected() {
            0 => Err(self.deposed()),
            _ => Ok(()),
        }
    }
}
