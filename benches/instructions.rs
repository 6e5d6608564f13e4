//! The ladder in instructions and allocations: what one request costs, rung by rung.
//!
//! `cargo bench --bench instructions` runs each rung once under Valgrind. It needs Valgrind and
//! `cargo install gungraun-runner` in the version that `Cargo.lock` has of `gungraun`.

mod support;

use std::hint::black_box;

use axum::Router;
use axum::body::Body;
use gungraun::Dhat;
use gungraun::prelude::*;
use http::Request;
use tower::{Layer, Service};
use tower_telemetry::{MetricSet, TelemetryGuard, TelemetryLayer};

use support::{Inbound, PassThroughLayer};

/// An application, warmed up, and the request that is measured.
struct Rung {
    app: Router,
    request: Request<Body>,
    _telemetry: Option<TelemetryGuard>,
}

impl Rung {
    fn new(mut app: Router, inbound: Inbound, telemetry: Option<TelemetryGuard>) -> Self {
        for _ in 0..40 {
            support::send(&mut app, support::request(inbound));
        }
        Self {
            app,
            request: support::request(inbound),
            _telemetry: telemetry,
        }
    }
}

fn bare(inbound: Inbound) -> Rung {
    Rung::new(support::routes(), inbound, None)
}

fn pass_through(inbound: Inbound) -> Rung {
    Rung::new(support::routes().layer(PassThroughLayer), inbound, None)
}

fn disabled(inbound: Inbound) -> Rung {
    let telemetry = support::init("parentbased_always_on", false);
    let app = support::routes().layer(TelemetryLayer::new());
    Rung::new(app, inbound, Some(telemetry))
}

fn both(inbound: Inbound) -> Rung {
    let telemetry = support::init("parentbased_always_on", true);
    let app = support::routes().layer(TelemetryLayer::new());
    Rung::new(app, inbound, Some(telemetry))
}

#[library_benchmark]
#[bench::bare(bare(Inbound::Sampled))]
#[bench::pass_through(pass_through(Inbound::Sampled))]
#[bench::disabled(disabled(Inbound::Sampled))]
#[bench::disabled_nothing_inbound(disabled(Inbound::Nothing))]
#[bench::not_sampled(both(Inbound::NotSampled))]
#[bench::sampled(both(Inbound::Sampled))]
#[bench::sampled_nothing_inbound(both(Inbound::Nothing))]
fn axum_route(rung: Rung) -> Rung {
    let mut rung = rung;
    let request = std::mem::replace(&mut rung.request, Request::new(Body::empty()));
    support::send(black_box(&mut rung.app), request);
    rung
}

library_benchmark_group!(name = server, benchmarks = [axum_route]);

main!(
    config = LibraryBenchmarkConfig::default().tool(Dhat::default()),
    library_benchmark_groups = server
);
