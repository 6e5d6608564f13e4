//! Exports with the crate `opentelemetry-otlp`, retried by this crate.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use tokio::time::{Instant, timeout};

use crate::config::settings::Protocol;
use crate::otlp::client::OtlpClient;
use crate::otlp::messages;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::reference::exporters::Reference;
use crate::otlp::reference::grpc;
use crate::otlp::reference::http::Exchange;
use crate::otlp::response::{AttemptError, Retry};
use crate::otlp::retention::Retention;
use crate::otlp::retries::RetryPolicy;
use crate::stats::Failure;

/// Sends the telemetry of one signal with an exporter of `opentelemetry-otlp`.
pub(crate) struct ReferenceClient<E> {
    /// The settings, the connection and the retries.
    pub(crate) client: Arc<OtlpClient>,
    resource: Resource,
    exchange: Arc<Exchange>,
    /// Built at the first export, because gRPC needs the runtime of the export thread. Rebuilt
    /// after an attempt that timed out.
    exporter: Arc<Mutex<Option<Arc<E>>>>,
}

impl<E: Reference> ReferenceClient<E> {
    pub(crate) fn new(client: OtlpClient, resource: Resource) -> Self {
        let client = Arc::new(client);
        Self {
            exchange: Arc::new(Exchange::new(client.clone())),
            client,
            resource,
            exporter: Arc::default(),
        }
    }

    /// Returns whether the exporter hides the number of rejected items. Over HTTP, this crate reads
    /// the response itself.
    pub(crate) fn hides_rejected(&self) -> bool {
        self.client.protocol == Protocol::Grpc
    }

    /// Sends batches, each with its number of items, and returns the outcome. `Q` reads the
    /// responses.
    pub(crate) async fn export<Q: messages::Request>(
        &self,
        batches: Vec<(E::Batch, u64)>,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> SendOutcome {
        let give_up_at = self.client.retries.give_up_at();
        let mut outcome = SendOutcome::default();
        let mut batches = batches.into_iter();
        while let Some((batch, count)) = batches.next() {
            let attempt = || self.attempt::<Q>(&batch);
            let not_before = || self.client.connection.pause_until();
            let run = self
                .client
                .retries
                .run(attempt, not_before, give_up_at, policy, retention);
            if outcome.add(count, run.await) {
                outcome.dropped += batches.by_ref().map(|(_, count)| count).sum::<u64>();
            }
        }
        outcome
    }

    /// Makes one attempt, and returns the number of rejected items as far as it is known.
    async fn attempt<Q: messages::Request>(
        &self,
        batch: &E::Batch,
    ) -> Result<(i64, String), AttemptError> {
        let exporter = self.exporter().map_err(|reason| not_written(&reason))?;
        // Discards the result of an attempt that timed out.
        self.exchange.take();
        let start = Instant::now();
        let limit = self.client.retries.limit(self.client.timeout);
        let Ok(sent) = timeout(limit, exporter.send(batch)).await else {
            self.client.connection.renew();
            *self.kept() = None;
            return Err(AttemptError::timeout());
        };
        if self.client.protocol == Protocol::Grpc {
            sent.map_err(|error| self.grpc_failure(&error, start))?;
            self.client.connection.record_response();
            return Ok((0, String::new()));
        }
        match (self.exchange.take(), sent) {
            (Some(Ok(accepted)), _) => self.client.rejected::<Q>(accepted).ok_or_else(|| {
                AttemptError::no_receiver("the response does not come from an OTLP receiver")
            }),
            (Some(Err(error)), _) => Err(error),
            (None, Err(error)) => Err(not_written(&error_message(&error))),
            (None, Ok(())) => Err(not_written("the exporter sent nothing")),
        }
    }

    fn grpc_failure(&self, error: &OTelSdkError, start: Instant) -> AttemptError {
        let text = error_message(error);
        if let Some(error) = grpc::status(&text) {
            self.client.connection.record_response();
            return error;
        }
        let error: Box<dyn Error + Send + Sync> = io::Error::other(text).into();
        AttemptError::connection(self.client.connection.record_failure(&*error, start))
    }

    fn exporter(&self) -> Result<Arc<E>, String> {
        let mut kept = self.kept();
        if let Some(exporter) = &*kept {
            return Ok(exporter.clone());
        }
        let exporter = Arc::new(E::build(&self.client, &self.exchange, &self.resource)?);
        *kept = Some(exporter.clone());
        Ok(exporter)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<E>>> {
        locked(&self.exporter)
    }

    /// Returns a function that drops the exporter with its connections.
    pub(crate) fn close(&self) -> impl Fn() + Send + Sync + use<E> {
        let exporter = self.exporter.clone();
        move || *locked(&exporter) = None
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error_message(error: &OTelSdkError) -> String {
    match error {
        OTelSdkError::InternalFailure(reason) => reason.clone(),
        other => other.to_string(),
    }
}

fn not_written(reason: &str) -> AttemptError {
    AttemptError::new(Failure::TooLarge, reason, Retry::Never)
}
