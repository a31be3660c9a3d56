//! What the command line asks of a coordinator.

use std::time::Duration;

use gavel_core::ids::{Digest, RunId};
use gavel_core::run::RunStatus;
use gavel_core::spec::RunSpec;
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::runs_client::RunsClient;
use gavel_proto::v1::{GetRunRequest, ListRunsRequest, MissingRequest, PutRequest, ResumeRequest, SubmitRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::assets::Files;
use crate::diagnostic::{Context as _, Diagnostic, Foreign as _, Result};

/// A run's assets carry every prompt.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// A coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: String,
    channel: Channel,
}

impl Client {
    /// Connects to the first of these addresses, separated by commas, whose coordinator does not stand by.
    ///
    /// # Errors
    /// Not an address, or nobody who leads answers there.
    pub(crate) async fn connect(addresses: &str) -> Result<Self> {
        let mut addresses = addresses.split(',').map(str::trim).peekable();
        loop {
            let client = Self::connect_to(addresses.next().unwrap_or_default()).await;
            // The last address's trouble is told, as that of an only one.
            let is_last = addresses.peek().is_none();
            match client {
                Ok(client) if is_last || client.leads().await => return Ok(client),
                Err(error) if is_last => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    async fn connect_to(address: &str) -> Result<Self> {
        let address = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(address.clone()).foreign().with_context(|| {
            Diagnostic::new(format!("`{address}` is not an address")).with_hint("write it as http://HOST:PORT")
        })?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .connect()
            .await
            .foreign()
            .with_context(|| {
                Diagnostic::new(format!("no coordinator answers at {address}"))
                    .with_hint("start `gavel coordinator`, or name its address with --connect")
            })?;
        Ok(Self { address, channel })
    }

    /// Whether this coordinator answers for its runs; a standby sends every caller away.
    async fn leads(&self) -> bool {
        let mut blobs = BlobsClient::new(self.channel.clone());
        let nothing = MissingRequest { sha256: Vec::new() };
        let answer = blobs.missing(nothing).await;
        answer.map_or_else(|status| status.code() != Code::Unavailable, |_| true)
    }

    fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Stores the pictures that the run's files name and submits the run.
    ///
    /// # Errors
    /// The coordinator refuses it, for example because another spec has this name.
    pub(crate) async fn submit(&self, spec: &RunSpec, files: &Files) -> Result<Submitted> {
        for picture in files.pictures.values() {
            self.put(picture)
                .await
                .context("cannot store a picture of the run's files")?;
        }
        let request = SubmitRequest {
            run_id: spec.run.name.clone(),
            spec_json: serde_json::to_string(spec).context("cannot write the spec as JSON")?,
            assets_json: serde_json::to_string(&files.assets).context("cannot write the assets as JSON")?,
        };
        let response = self
            .runs()
            .submit(request)
            .await
            .map_err(|status| self.refused(&status))?
            .into_inner();
        Ok(Submitted {
            spec_sha256: response.spec_sha256,
            existed: response.existed,
        })
    }

    async fn put(&self, bytes: &[u8]) -> Result<()> {
        let expected = Digest::of(bytes).to_string();
        let chunks: Vec<PutRequest> = bytes
            .chunks(CHUNK_BYTES)
            .enumerate()
            .map(|(index, chunk)| PutRequest {
                chunk: chunk.to_vec(),
                sha256: if index == 0 { expected.clone() } else { String::new() },
            })
            .collect();
        let mut blobs = BlobsClient::new(self.channel.clone());
        let stored = blobs
            .put(tokio_stream::iter(chunks))
            .await
            .map_err(|status| self.refused(&status))?
            .into_inner();
        match stored.sha256 == expected {
            true => Ok(()),
            false => Err(format!("blob {expected} was stored as {}", stored.sha256).into()),
        }
    }

    /// One run's state.
    ///
    /// # Errors
    /// No such run.
    pub(crate) async fn status(&self, run: &RunId) -> Result<RunStatus> {
        let request = GetRunRequest { run_id: run.0.clone() };
        let response = self.runs().get(request).await.map_err(|status| self.refused(&status))?;
        parse(&response.into_inner().status_json)
    }

    /// Every run's state.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub(crate) async fn list(&self) -> Result<Vec<RunStatus>> {
        let response = self
            .runs()
            .list(ListRunsRequest {})
            .await
            .map_err(|status| self.refused(&status))?;
        response
            .into_inner()
            .status_json
            .iter()
            .map(|text| parse(text))
            .collect()
    }

    /// A run's state now and after each change.
    ///
    /// # Errors
    /// No such run, or no coordinator.
    pub(crate) async fn watch(&self, run: &RunId) -> Result<Watch> {
        let request = GetRunRequest { run_id: run.0.clone() };
        let stream = self
            .runs()
            .watch(request)
            .await
            .map_err(|status| self.refused(&status))?
            .into_inner();
        Ok(Watch { stream })
    }

    /// Lets a stopped or failed run go on. One that is not stopped goes on as it is.
    ///
    /// # Errors
    /// No such run.
    pub(crate) async fn resume(&self, run: &RunId) -> Result<()> {
        match self.runs().resume(ResumeRequest { run_id: run.0.clone() }).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
            Err(status) => Err(self.refused(&status)),
        }
    }

    fn refused(&self, status: &Status) -> Diagnostic {
        let fault = Diagnostic::new(format!("the coordinator at {}: {}", self.address, status.message()));
        match status.code() {
            Code::AlreadyExists => fault.with_hint("choose another `run.name`, or submit the same configuration"),
            Code::NotFound => fault.with_hint("`gavel status` lists the runs"),
            Code::Unavailable => fault.with_hint("start `gavel coordinator`, or name its address with --connect"),
            _ => fault,
        }
    }
}

/// The coordinator's answer to a submission.
pub(crate) struct Submitted {
    pub(crate) spec_sha256: String,
    pub(crate) existed: bool,
}

/// The states of one run as they come.
pub(crate) struct Watch {
    stream: Streaming<gavel_proto::v1::GetRunResponse>,
}

impl Watch {
    /// The next state; `None` when the coordinator ended the stream.
    ///
    /// # Errors
    /// The stream broke.
    pub(crate) async fn next(&mut self) -> Result<Option<RunStatus>> {
        match self.stream.message().await.foreign()? {
            Some(message) => parse(&message.status_json).map(Some),
            None => Ok(None),
        }
    }
}

fn parse(text: &str) -> Result<RunStatus> {
    serde_json::from_str(text).context("the coordinator's answer is not a run's state: is it of the same version?")
}
