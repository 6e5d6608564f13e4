//! The ladder in time, on one thread and on two threads at once.
//!
//! `cargo bench --bench time` runs it. The cost of a rung is its difference to `pass_through` in
//! the same run. With two threads the cost per request should not be higher.

mod support;

use std::cell::RefCell;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::LazyLock;
use std::thread::LocalKey;

use axum::body::Body;
use divan::{Bencher, Divan, black_box};
use http::{Request, Response};
use tower::{Layer, Service};
use tower_telemetry::{
    ClientTelemetryLayer, TelemetryGuard, TelemetryLayer, attributes, bind_counter,
    increment_counter, layers::Telemetry, record_histogram_value,
};

use support::{Answer, Inbound, Method, PassThroughLayer, attach, call, outgoing, request, routes};

/// The telemetry of all rungs. A tenth of the requests without a context is sampled.
static TELEMETRY: LazyLock<TelemetryGuard> = LazyLock::new(|| {
    let enabled = std::env::var("ENABLE_TELEMETRY").as_deref() != Ok("false");
    support::init("parentbased_traceidratio", enabled, receiver())
});

/// Starts a receiver that accepts everything, so that the queue has room.
fn receiver() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener
        .set_nonblocking(true)
        .expect("the socket can be non-blocking");
    let address = listener.local_addr().expect("the socket is bound");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("the runtime can be built").block_on(async {
            let all = axum::Router::new().fallback(async |_: axum::body::Bytes| ());
            let listener = tokio::net::TcpListener::from_std(listener).expect("the socket listens");
            axum::serve(listener, all).await.expect("the server runs");
        });
    });
    address
}

/// The rungs with disabled telemetry run in a process of their own.
fn main() {
    const SWITCHED_OFF: &str = "switched_off";
    if std::env::var_os("ENABLE_TELEMETRY").is_some() {
        return divan::main();
    }
    Divan::from_args().skip_regex(SWITCHED_OFF).main();
    let program = std::env::current_exe().expect("the program has a path");
    let mut program = Command::new(program);
    let options = std::env::args().filter(|argument| argument.starts_with('-'));
    program.args(options).arg(SWITCHED_OFF);
    let status = program.env("ENABLE_TELEMETRY", "false").status();
    assert!(status.expect("the program starts").success());
}

/// Sends requests on each thread through a separate service.
fn send<S, B>(bencher: Bencher, service: &S, request: impl Fn() -> Request<Body> + Sync)
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Sync,
    S::Error: Debug,
    B: http_body::Body,
{
    LazyLock::force(&TELEMETRY);
    bencher
        .with_inputs(|| (service.clone(), request()))
        .bench_values(|(mut service, request)| {
            support::send(&mut service, request);
            service
        });
}

const THREADS: [usize; 2] = [1, 2];

mod axum_route {
    use super::*;

    #[divan::bench(threads = THREADS)]
    fn bare(bencher: Bencher) {
        send(bencher, &routes(), || request(Inbound::Sampled));
    }

    #[divan::bench(threads = THREADS)]
    fn pass_through(bencher: Bencher) {
        let app = routes().layer(PassThroughLayer::default());
        send(bencher, &app, || request(Inbound::Sampled));
    }

    #[divan::bench(threads = THREADS)]
    fn switched_off(bencher: Bencher) {
        let app = routes().layer(TelemetryLayer::new());
        send(bencher, &app, || request(Inbound::Sampled));
    }

    #[divan::bench(threads = THREADS, args = [Inbound::Sampled, Inbound::NotSampled, Inbound::Nothing])]
    fn both(bencher: Bencher, inbound: Inbound) {
        let app = routes().layer(TelemetryLayer::new());
        send(bencher, &app, || request(inbound));
    }

    #[divan::bench(threads = THREADS, args = [Inbound::Sampled, Inbound::NotSampled, Inbound::Nothing])]
    fn traces_only(bencher: Bencher, inbound: Inbound) {
        let app = routes().layer(TelemetryLayer::new().with_metrics([]));
        send(bencher, &app, || request(inbound));
    }
}

/// Measures without axum, because all threads write to its shared reference counts. Each thread has
/// its own service, like a connection.
mod service {
    use super::*;

    static BOTH: LazyLock<TelemetryLayer> = LazyLock::new(TelemetryLayer::new);
    static TRACES_ONLY: LazyLock<TelemetryLayer> =
        LazyLock::new(|| TelemetryLayer::new().with_metrics([]));

    thread_local! {
        static WITH_BOTH: RefCell<Telemetry<Answer>> = RefCell::new(BOTH.layer(Answer));
        static WITH_TRACES: RefCell<Telemetry<Answer>> = RefCell::new(TRACES_ONLY.layer(Answer));
    }

    fn send(
        bencher: Bencher,
        service: &'static LocalKey<RefCell<Telemetry<Answer>>>,
        inbound: Inbound,
    ) {
        LazyLock::force(&TELEMETRY);
        let request = || request(inbound);
        bencher.with_inputs(request).bench_values(|request| {
            service.with_borrow_mut(|service| support::send(service, request));
        });
    }

    #[divan::bench(threads = THREADS, sample_size = 500)]
    fn bare(bencher: Bencher) {
        let request = || request(Inbound::Sampled);
        bencher
            .with_inputs(request)
            .bench_values(|request| support::send(&mut Answer, request));
    }

    #[divan::bench(threads = THREADS, sample_size = 500, args = [Inbound::Sampled, Inbound::NotSampled])]
    fn both(bencher: Bencher, inbound: Inbound) {
        send(bencher, &WITH_BOTH, inbound);
    }

    #[divan::bench(threads = THREADS, sample_size = 500, args = [Inbound::Sampled, Inbound::NotSampled])]
    fn traces_only(bencher: Bencher, inbound: Inbound) {
        send(bencher, &WITH_TRACES, inbound);
    }
}

mod grpc_call {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher) {
        send(bencher, &Method, || call(Inbound::Sampled));
    }

    #[divan::bench]
    fn pass_through(bencher: Bencher) {
        send(bencher, &PassThroughLayer::default().layer(Method), || {
            call(Inbound::Sampled)
        });
    }

    #[divan::bench]
    fn switched_off(bencher: Bencher) {
        send(bencher, &TelemetryLayer::new().layer(Method), || {
            call(Inbound::Sampled)
        });
    }

    #[divan::bench(args = [Inbound::Sampled, Inbound::NotSampled])]
    fn both(bencher: Bencher, inbound: Inbound) {
        send(bencher, &TelemetryLayer::new().layer(Method), || {
            call(inbound)
        });
    }
}

mod client_request {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher) {
        send(bencher, &Answer, outgoing);
    }

    #[divan::bench]
    fn pass_through(bencher: Bencher) {
        send(
            bencher,
            &PassThroughLayer::default().layer(Answer),
            outgoing,
        );
    }

    #[divan::bench]
    fn switched_off(bencher: Bencher) {
        let _attached = attach(Inbound::Sampled);
        send(
            bencher,
            &ClientTelemetryLayer::new().layer(Answer),
            outgoing,
        );
    }

    #[divan::bench(args = [Inbound::Sampled, Inbound::NotSampled])]
    fn both(bencher: Bencher, inbound: Inbound) {
        let _attached = attach(inbound);
        send(
            bencher,
            &ClientTelemetryLayer::new().layer(Answer),
            outgoing,
        );
    }
}

mod function {
    use super::*;

    #[inline(never)]
    fn empty() {
        black_box(0);
    }

    #[tower_telemetry::with_tracer("bench")]
    fn with_attribute() {
        black_box(0);
    }

    #[tower_telemetry::with_tracer("bench", metrics)]
    fn with_attribute_and_metrics() {
        black_box(0);
    }

    fn run(bencher: Bencher, inbound: Inbound, function: fn()) {
        LazyLock::force(&TELEMETRY);
        let _attached = attach(inbound);
        bencher.bench_local(function);
    }

    #[divan::bench]
    fn plain(bencher: Bencher) {
        run(bencher, Inbound::Nothing, empty);
    }

    #[divan::bench]
    fn attribute_switched_off(bencher: Bencher) {
        run(bencher, Inbound::Sampled, with_attribute);
    }

    #[divan::bench(args = [Inbound::Sampled, Inbound::NotSampled])]
    fn attribute(bencher: Bencher, inbound: Inbound) {
        run(bencher, inbound, with_attribute);
    }

    #[divan::bench(args = [Inbound::Sampled, Inbound::NotSampled])]
    fn attribute_with_metrics(bencher: Bencher, inbound: Inbound) {
        run(bencher, inbound, with_attribute_and_metrics);
    }

    #[divan::bench]
    fn counter(bencher: Bencher) {
        run(bencher, Inbound::Sampled, || {
            increment_counter("bench.counter", "Counted.", attributes! { "kind" => "a" });
        });
    }

    #[divan::bench]
    fn histogram(bencher: Bencher) {
        run(bencher, Inbound::Sampled, || {
            let kind = attributes! { "kind" => "a" };
            record_histogram_value("bench.histogram", "Recorded.", 1.5, kind);
        });
    }

    #[divan::bench]
    fn bound_counter(bencher: Bencher) {
        LazyLock::force(&TELEMETRY);
        let counter = bind_counter("bench.bound", "Counted.", attributes! { "kind" => "a" });
        bencher.bench(|| counter.add(1));
    }
}

/// The metric measurements at the end of a request, without the request. They go to one series that
/// all threads share, or to one series per thread.
mod record {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry::KeyValue;
    use opentelemetry::metrics::{BoundCounter, BoundHistogram, MeterProvider};
    use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};

    use super::*;

    static PROVIDER: LazyLock<SdkMeterProvider> = LazyLock::new(|| {
        let reader = ManualReader::default();
        SdkMeterProvider::builder().with_reader(reader).build()
    });
    static SHARED: LazyLock<Series> = LazyLock::new(|| Series::new("shared".to_owned()));

    thread_local! {
        static OWN: Series = {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            Series::new(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
        };
    }

    struct Series {
        requests: BoundCounter<u64>,
        milliseconds: BoundHistogram<f64>,
        seconds: BoundHistogram<f64>,
    }

    impl Series {
        fn new(name: String) -> Self {
            let meter = PROVIDER.meter("bench");
            let attributes = [KeyValue::new("series", name)];
            let histogram = |name| meter.f64_histogram(name).build().bind(&attributes);
            Self {
                requests: meter.u64_counter("requests").build().bind(&attributes),
                milliseconds: histogram("milliseconds"),
                seconds: histogram("seconds"),
            }
        }

        fn record(&self) {
            self.requests.add(1);
            self.milliseconds.record(black_box(12.5));
            self.seconds.record(black_box(0.0125));
        }
    }

    #[divan::bench(threads = THREADS, sample_size = 60_000)]
    fn counter_of_all_threads(bencher: Bencher) {
        bencher.bench(|| SHARED.requests.add(1));
    }

    #[divan::bench(threads = THREADS, sample_size = 60_000)]
    fn histogram_of_all_threads(bencher: Bencher) {
        bencher.bench(|| SHARED.seconds.record(black_box(0.0125)));
    }

    #[divan::bench(threads = THREADS, sample_size = 60_000)]
    fn request_to_a_series_of_all_threads(bencher: Bencher) {
        bencher.bench(|| SHARED.record());
    }

    #[divan::bench(threads = THREADS, sample_size = 60_000)]
    fn request_to_a_series_of_each_thread(bencher: Bencher) {
        bencher.bench(|| OWN.with(Series::record));
    }
}
