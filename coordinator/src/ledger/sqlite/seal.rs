//! The ledger's name, and the checksums of the rows that were written before there were any.

use gavel_core::ids::RunId;
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use super::super::rows::{Columns as _, signed, unsealed_event, unsealed_run};

/// Events that are read at a time.
const PAGE: i64 = 1000;

/// The ledger's name. A ledger that has none gets one, and its rows their checksums, in one transaction.
pub(super) async fn identity(pool: &SqlitePool) -> Result<Uuid, sqlx::Error> {
    const NAME: &str = "SELECT ledger FROM identity";
    if let Some(name) = sqlx::query_scalar::<_, String>(NAME).fetch_optional(pool).await? {
        return parse(&name);
    }
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let known = sqlx::query_scalar::<_, String>(NAME)
        .fetch_optional(&mut *transaction)
        .await?;
    if let Some(name) = known {
        return parse(&name);
    }
    let runs = sqlx::query("SELECT CAST(run_id AS BLOB) AS run_id FROM runs")
        .fetch_all(&mut *transaction)
        .await?;
    let mut events = 0;
    for row in &runs {
        let Ok(name) = String::from_utf8(row.bytes("run_id")?) else {
            continue;
        };
        let run = RunId(name);
        match seal(&mut transaction, &run).await {
            Ok(count) => events += count,
            // It stays without checksums, and is set aside when the ledger is read.
            Err(error @ sqlx::Error::ColumnDecode { .. }) => {
                tracing::error!(%run, %error, "a run that cannot be read gets no checksums");
            }
            Err(error) => return Err(error),
        }
    }
    let name = Uuid::new_v4();
    sqlx::query("INSERT INTO identity (ledger) VALUES (?1)")
        .bind(name.to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    if !runs.is_empty() {
        tracing::info!(
            runs = runs.len(),
            events,
            "the ledger had no checksums; its rows have them from now on"
        );
    }
    Ok(name)
}

/// Writes the checksums of a run's rows. Returns how many events it has.
async fn seal(transaction: &mut Transaction<'static, Sqlite>, run: &RunId) -> Result<u64, sqlx::Error> {
    let row = sqlx::query("SELECT spec, assets, spec_sha256, created_unix_ms FROM runs WHERE run_id = ?1")
        .bind(&run.0)
        .fetch_one(&mut **transaction)
        .await?;
    let record = unsealed_run(run, &row)?;
    sqlx::query("UPDATE runs SET spec_chain = ?2, chain = ?3 WHERE run_id = ?1")
        .bind(&run.0)
        .bind(record.spec_chain.0.as_slice())
        .bind(record.chain.0.as_slice())
        .execute(&mut **transaction)
        .await?;
    let (mut chain, mut last, mut count) = (record.chain, 0, 0);
    loop {
        let rows = sqlx::query(
            "SELECT sequence, at_unix_ms, kind, event FROM events WHERE run_id = ?1 AND sequence > ?2
             ORDER BY sequence LIMIT ?3",
        )
        .bind(&run.0)
        .bind(signed(last))
        .bind(PAGE)
        .fetch_all(&mut **transaction)
        .await?;
        if rows.is_empty() {
            return Ok(count);
        }
        for row in &rows {
            let event = unsealed_event(&chain, run, row)?;
            sqlx::query("UPDATE events SET chain = ?3 WHERE run_id = ?1 AND sequence = ?2")
                .bind(&run.0)
                .bind(signed(event.sequence))
                .bind(event.chain.0.as_slice())
                .execute(&mut **transaction)
                .await?;
            (chain, last, count) = (event.chain, event.sequence, count + 1);
        }
    }
}

fn parse(name: &str) -> Result<Uuid, sqlx::Error> {
    Uuid::parse_str(name).map_err(|error| sqlx::Error::Decode(error.into()))
}
