//! Spans and durations of messages: in queues, topics and streams, and of jobs.
//!
//! The sender of a message writes its context into the headers of the message. The handler reads the
//! context from there (see [`carriers`](crate::carriers)), so that both are in one trace:
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
//!             println!("to be handled again: {error}");
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
//! A [`SpanBuilder`] runs the handling of a message in its span, and records its end: `error.type` is the type
//! of the error, `panic`, or `cancelled` where the future is dropped before its end. The metric has the same.
//!
//! | | span name | kind | metric, in seconds |
//! |---|---|---|---|
//! | [`Destination::send`] | `send orders` | producer | `messaging.client.operation.duration` |
//! | [`Destination::process`], [`Destination::process_batch`] | `process orders` | consumer | `messaging.process.duration` |
//!
//! Attributes of both are `messaging.system`, `messaging.operation.name`, `messaging.operation.type`,
//! `messaging.destination.name` or `messaging.destination.template`, `messaging.consumer.group.name`,
//! `server.address`, `server.port` and `error.type`, and `messaging.batch.message_count` of spans. They follow
//! the [messaging conventions] 1.45, of which `error.type` and `server.*` are stable, and all else is in
//! development: it may change in a release of the conventions, and then in one of this crate.
//!
//! Metrics tell 256 destinations apart; those past them have the name `_OTHER`.
//!
//! # Child or link
//!
//! Each span links to the spans that sent its messages. The span of a single message may be below its
//! producer's, too: see [`Producer`].
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

/// Bound of the links of a span, which is that of the OpenTelemetry specification.
const MAX_LINKS: usize = 128;

/// Says how the span of a message is related to that of its producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Producer {
    /// The parent, unless another span is current where the message is handled; a link always.
    #[default]
    ParentOutsideOfSpans,
    /// The parent, and a link. A span that is current where the message is handled becomes a link, too.
    Parent,
    /// A link alone. The span is below the one that is current, or begins a trace of its own, so that
    /// senders cannot choose its trace, its sampling or its baggage.
    Link,
}

/// A queue, a topic or a stream of messages.
///
/// It is cheap to clone, and is made once for each queue. Its texts are cut to 255 bytes.
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
    /// Names a destination of a system: `kafka`, `aws_sqs`, `rabbitmq` and others that the conventions
    /// list, or another such as `nats` ([`messaging.system`]).
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

    /// Sets what names of this kind have in common, for names with parts that vary. Span names and
    /// metrics have it in place of the name.
    pub fn with_template(self, template: impl Into<Cow<'static, str>>) -> Self {
        self.with(|named| named.template = Some(destination_text(template.into())))
    }

    /// Sets the group of consumers that this process is one of.
    pub fn with_consumer_group(self, group: impl Into<Cow<'static, str>>) -> Self {
        self.with(|named| named.consumer_group = Some(destination_text(group.into())))
    }

    /// Sets the broker, as the client was told of it.
    pub fn with_server(self, address: impl Into<Cow<'static, str>>, port: u16) -> Self {
        self.with(|named| named.server = Some((destination_text(address.into()), port)))
    }

    /// Sets how spans of single messages are related to those of their producers.
    pub fn with_producer(mut self, producer: Producer) -> Self {
        self.producer = producer;
        self
    }

    /// Describes the span in which a message is sent, below the current one. Inject the context into the
    /// message while it runs.
    pub fn send(&self) -> SpanBuilder {
        self.span(Operation::Send, [])
    }

    /// Describes the span in which a message is handled. `message` is the context that the message
    /// carries, from [`carriers::extract`](crate::carriers::extract).
    ///
    /// Whether another span is current counts when this is called.
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

    /// Describes the span in which several messages are handled at once, below the current one, with a
    /// link to the sender of each. The first 128 links are kept.
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
