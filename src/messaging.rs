//! Spans and durations for messages in queues, topics and streams, and for jobs.
//!
//! The producer of a message writes its context into the headers of the message, and the consumer
//! reads the context from them (see [`carriers`](crate::carriers)). So both are in one trace:
//!
//! ```
//! use std::collections::HashMap;
//! use tower_telemetry::{carriers, messaging::Destination};
//!
//! # #[derive(Default)] struct Message { headers: HashMap<String, String> }
//! # struct Queue;
//! # impl Queue {
//! #     async fn send(&self, _: Message) -> Result<(), std::io::Error> { Ok(()) }
//! #     async fn receive(&self) -> Option<Message> { None }
//! # }
//! async fn produce(queue: &Queue, orders: &Destination) -> Result<(), std::io::Error> {
//!     let send = async {
//!         let mut message = Message::default();
//!         carriers::inject(|name, value| {
//!             message.headers.insert(name.to_owned(), value.to_owned());
//!         });
//!         queue.send(message).await
//!     };
//!     orders.send().try_run_future(send).await
//! }
//!
//! async fn consume(queue: &Queue, orders: &Destination) {
//!     while let Some(message) = queue.receive().await {
//!         let cx = carriers::extract(&message.headers);
//!         let outcome = orders.process(cx).try_run_future(handle(message)).await;
//!         if let Err(error) = outcome {
//!             println!("will be retried: {error}");
//!         }
//!     }
//! }
//!
//! async fn handle(message: Message) -> Result<(), std::num::ParseIntError> { Ok(()) }
//!
//! let orders = Destination::new("kafka", "orders").with_consumer_group("billing");
//! # let _ = (orders, produce, consume);
//! ```
//!
//! # What is recorded
//!
//! A [`SpanBuilder`] processes a message in a span and records the result: `error.type` is the type
//! of the error, `panic`, or `cancelled` if the future is dropped before it completes. The metric
//! has the same value.
//!
//! | | span name | kind | metric, in seconds |
//! |---|---|---|---|
//! | [`Destination::send`] | `send orders` | producer | `messaging.client.operation.duration` |
//! | [`Destination::process`], [`Destination::process_batch`] | `process orders` | consumer | `messaging.process.duration` |
//!
//! Spans and metrics have the attributes `messaging.system`, `messaging.operation.name`,
//! `messaging.operation.type`, `messaging.destination.name` or `messaging.destination.template`,
//! `messaging.consumer.group.name`, `server.address`, `server.port` and `error.type`. Spans also
//! have `messaging.batch.message_count`. The attributes follow the [messaging conventions] 1.45. Of
//! these, `error.type` and `server.*` are stable; the others are in development, and may change in
//! a later release of the conventions and of this crate.
//!
//! Metrics distinguish 256 destinations. Further destinations have the name `_OTHER`.
//!
//! # Child or link
//!
//! Each span has links to the spans that sent its messages. The span of a single message may also
//! be a child of its producer's span: see [`Producer`].
//!
//! [messaging conventions]: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue};

use crate::current_context;
use crate::handler::SpanBuilder;
use crate::handler::run::{Function, Measured};
use crate::semconv::messaging::{Operation, destination_text};
use crate::semconv::{self, messaging as conventions};

/// The maximum number of links of a span, as in the OpenTelemetry specification.
const MAX_LINKS: usize = 128;

/// The relation between the span of a message and the span of its producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Producer {
    /// The producer is linked. It is also the parent, unless there is a current span when the
    /// message is processed.
    #[default]
    ParentOutsideOfSpans,
    /// The producer is the parent and is linked. A current span is linked as well.
    Parent,
    /// The producer is only linked. The span is a child of the current span or starts a new trace,
    /// so producers cannot choose its trace, its sampling or its baggage.
    Link,
}

/// A queue, a topic or a stream of messages.
///
/// It is cheap to clone: create it once per queue. Its texts are truncated to 255 bytes.
///
/// ```
/// use tower_telemetry::messaging::Destination;
///
/// let orders = Destination::new("nats", "orders.eu.42")
///     .with_template("orders.{region}.{id}")
///     .with_consumer_group("billing")
///     .with_server("nats.internal", 4222);
/// # let _ = orders;
/// ```
#[derive(Clone, Debug)]
pub struct Destination {
    named: Arc<conventions::Destination>,
    producer: Producer,
}

impl Destination {
    /// Creates a destination in a messaging system: `kafka`, `aws_sqs`, `rabbitmq` or another
    /// system that the conventions list, or any other name such as `nats` ([`messaging.system`]).
    ///
    /// [`messaging.system`]: https://opentelemetry.io/docs/specs/semconv/registry/attributes/messaging/
    pub fn new(system: impl Into<Cow<'static, str>>, name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            named: Arc::new(conventions::Destination::new(system.into(), name.into())),
            producer: Producer::default(),
        }
    }

    fn with(mut self, set: impl FnOnce(&mut conventions::Destination)) -> Self {
        set(Arc::make_mut(&mut self.named));
        self
    }

    /// Sets the template of the name, for names with variable parts. It replaces the name in span
    /// names and in metrics.
    pub fn with_template(self, template: impl Into<Cow<'static, str>>) -> Self {
        self.with(|named| named.template = Some(destination_text(template.into())))
    }

    /// Sets the consumer group of this process.
    pub fn with_consumer_group(self, group: impl Into<Cow<'static, str>>) -> Self {
        self.with(|named| named.consumer_group = Some(destination_text(group.into())))
    }

    /// Sets the address and the port of the broker, as the client is configured.
    pub fn with_server(self, address: impl Into<Cow<'static, str>>, port: u16) -> Self {
        self.with(|named| named.server = Some((destination_text(address.into()), port)))
    }

    /// Sets how spans of single messages are related to the spans of their producers.
    pub fn with_producer(mut self, producer: Producer) -> Self {
        self.producer = producer;
        self
    }

    /// Creates the builder of a span for sending a message, below the current span. Inject the
    /// context into the message within this span.
    pub fn send(&self) -> SpanBuilder {
        self.span(Operation::Send, [])
    }

    /// Creates the builder of a span for processing a message. `message` is the context in the
    /// message, from [`carriers::extract`](crate::carriers::extract).
    ///
    /// The current span is determined when this method is called.
    ///
    /// ```
    /// use tower_telemetry::{attributes, carriers, messaging::Destination};
    ///
    /// fn on_message(orders: &Destination, id: &str, headers: &[(&str, &[u8])]) {
    ///     orders
    ///         .process(carriers::extract(headers.iter().copied()))
    ///         .with_attributes(attributes! { "messaging.message.id" => id })
    ///         .run(|| { /* the work */ });
    /// }
    /// # on_message(&Destination::new("kafka", "orders"), "1", &[]);
    /// ```
    pub fn process(&self, message: Context) -> SpanBuilder {
        let current = current_context::get();
        let current = current.span().span_context().clone();
        let is_parent = match self.producer {
            Producer::ParentOutsideOfSpans => !current.is_valid(),
            Producer::Parent => true,
            Producer::Link => false,
        };
        let span = self.span(Operation::Process, []);
        let span = span.with_link(message.span().span_context().clone());
        if is_parent {
            span.with_link(current).with_parent(message)
        } else {
            span
        }
    }

    /// Creates the builder of a span for processing several messages at once, below the current
    /// span, with a link to the producer of each. The first 128 links are kept.
    ///
    /// ```
    /// use tower_telemetry::{carriers, messaging::Destination};
    ///
    /// async fn on_batch(orders: &Destination, batch: Vec<Vec<(String, Vec<u8>)>>) {
    ///     let messages = batch.iter().map(|headers| {
    ///         carriers::extract(headers.iter().map(|(name, value)| (name, value)))
    ///     });
    ///     let span = orders.process_batch(messages);
    ///     span.run_future(async { /* the work */ }).await;
    /// }
    /// ```
    pub fn process_batch(&self, messages: impl IntoIterator<Item = Context>) -> SpanBuilder {
        let mut count = 0_i64;
        let mut senders = Vec::new();
        for message in messages {
            count += 1;
            let sender = message.span().span_context().clone();
            if sender.is_valid() && senders.len() < MAX_LINKS {
                senders.push(sender);
            }
        }
        let count = KeyValue::new(semconv::MESSAGING_BATCH_MESSAGE_COUNT, count);
        let span = self.span(Operation::Process, [count]);
        senders.into_iter().fold(span, SpanBuilder::with_link)
    }

    fn span(&self, operation: Operation, more: impl IntoIterator<Item = KeyValue>) -> SpanBuilder {
        let name = self.named.span_name(operation);
        let mut function = Function::new(env!("CARGO_PKG_NAME"), name.into());
        function.kind = operation.kind();
        function.metrics = Some(Measured::Messages(operation, self.named.clone()));
        SpanBuilder::of(function)
            .with_attributes(self.named.span_attributes(operation))
            .with_attributes(more)
    }
}
