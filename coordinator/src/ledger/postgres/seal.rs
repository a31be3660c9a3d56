//! The ledger's name, and the checksums of the rows that were written before there were any.

use gavel_core::ids::RunId;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgTransaction};
use uuid::Uuid;

use super::super::rows::{signed, unsealed_event, unsealed_run};

/// Events that are read and written at a time.
const PAGE: i64 = 1000;

/// The ledger's name. A ledger that has none gets one, and its rows their checksums, in one transaction.
pub(super) async fn identity(connection: &mut PgConnection) -> Result<Uuid, sqlx::Error> {
    const NAME: &str = "SELECT ledger FROM identity";
    if let Some(name) = sqlx::query_scalar::<_, String>(NAME)
        .fetch_optional(&mut *connection)
        .await?
    {
        return parse(&name);
    }
    let mut transaction = connection.begin().await?;
    // Of coordinators that start at once, one goes first.
    sqlx::query("LOCK TABLE identity IN EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let known = sqlx::query_scalar::<_, String>(NAME)
        .fetch_optional(&mut *transaction)
        .await?;
    if let Some(name) = known {
        return parse(&name);
    }
    let runs: Vec<String> = sqlx::query_scalar("SELECT run_id FROM runs")
        .fetch_all(&mut *transaction)
        .await?;
    let mut events = 0;
    for run in &runs {
        events += seal(&mut transaction, &RunId(run.clone())).await?;
    }
    let name = Uuid::new_v4();
    sqlx::query("INSERT INTO identity (ledger) VALUES ($1)")
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
async fn seal(transaction: &mut PgTransaction<'_>, run: &RunId) -> Result<u64, sqlx::Error> {
    let row = sqlx::query("SELECT spec, assets, spec_sha256, created_unix_ms FROM runs WHERE run_id = $1")
        .bind(&run.0)
        .fetch_one(&mut **transaction)
        .await?;
    let record = unsealed_run(run, &row)?;
    sqlx::query("UPDATE runs SET spec_chain = $2, chain = $3 WHERE run_id = $1")
        .bind(&run.0)
        .bind(record.spec_chain.0.as_slice())
        .bind(record.chain.0.as_slice())
        .execute(&mut **transaction)
        .await?;
    let (mut chain, mut last, mut count) = (record.chain, 0, 0);
    loop {
        let rows = sqlx::query(
            "SELECT sequence, at_unix_ms, kind, event FROM events WHERE run_id = $1 AND sequence > $2
             ORDER BY sequence LIMIT $3",
        )
        .bind(&run.0)
        .bind(signed(last))
        .bind(PAGE)
        .fetch_all(&mut **transaction)
        .await?;
        if rows.is_empty() {
            return Ok(count);
        }
        let (mut sequences, mut chains) = (Vec::new(), Vec::new());
        for row in &rows {
            let event = unsealed_event(&chain, run, row)?;
            (chain, last, count) = (event.chain, event.sequence, count + 1);
            sequences.push(signed(event.sequence));
            chains.push(event.chain.0.to_vec());
        }
        sqlx::query(
            "UPDATE events SET chain = sealed.chain FROM UNNEST($2::BIGINT[], $3::BYTEA[]) AS sealed (sequence, chain)
             WHERE events.run_id = $1 AND events.sequence = sealed.sequence",
        )
        .bind(&run.0)
        .bind(&sequences)
        .bind(&chains)
        .execute(&mut **transaction)
        .await?;
    }
}

fn parse(name: &str) -> Result<Uuid, sqlx::Error> {
    Uuid::parse_str(name).map_err(|error| sqlx::Error::Decode(error.into()))
}
