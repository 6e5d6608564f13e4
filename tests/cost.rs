//! Counts the allocations of a request. The allocator counts for the whole process, so this test is
//! a program of its own.

#![cfg(all(feature = "axum", feature = "init"))]

#[path = "../benches/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use tower_telemetry::TelemetryLayer;

use support::{Inbound, PassThroughLayer, request, routes};

const REQUESTS: usize = 64;

#[test]
fn a_request_allocates_no_more_than_the_limit() {
    // Nothing listens on that port. The queue has room for all spans.
    let no_receiver = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let telemetry = support::init("parentbased_always_on", true, no_receiver);
    for (inbound, most) in [(Inbound::Sampled, 6.1), (Inbound::NotSampled, 4.0)] {
        let with = allocations(routes().layer(TelemetryLayer::new()), inbound);
        let without = allocations(routes().layer(PassThroughLayer::default()), inbound);
        let added = with - without;
        // A recorded request allocates at least the context of its span.
        assert!((1.0..=most).contains(&added), "{inbound:?}: {added}");
    }
    assert_eq!(telemetry.stats().traces.accepted, 2 * REQUESTS as u64);
}

#[test]
fn a_list_of_attributes_does_not_allocate() {
    use tower_telemetry::attributes;

    for id in [None, Some(7)] {
        let info = allocation_counter::measure(|| {
            let list = attributes! { "a" => 1, "b" => "text".len(), "c" => id, "d" => true };
            assert_eq!(list.len(), 3 + usize::from(id.is_some()));
            assert_eq!(list.as_ref().len(), list.into_iter().count());
        });
        assert_eq!(info.count_total, 0);
    }
}

#[test]
fn a_text_literal_in_a_list_of_attributes_is_not_copied() {
    use tower_telemetry::attributes;

    macro_rules! within_a_macro {
        ($($value:expr),*) => { attributes! { $("k" => $value),* } };
    }
    let owned = String::from("b");
    let info = allocation_counter::measure(|| {
        let list =
            attributes! { "a" => "text", "b" => r"raw", "c" => -1, "d" => 1.5, "e" => 'c' == 'd' };
        assert_eq!(list.len(), 5);
        assert_eq!(within_a_macro!("text", 2).len(), 2);
    });
    assert_eq!(info.count_total, 0);
    // A borrowed text is copied.
    let info = allocation_counter::measure(|| {
        assert_eq!(
            attributes! { "a" => "text", "b" => owned.as_str() }.len(),
            2
        );
    });
    assert_eq!(info.count_total, 1);
}

/// Returns the allocations per request. It averages over many requests because a queue allocates
/// for several at once.
fn allocations(mut app: Router, inbound: Inbound) -> f64 {
    let mut counted = 0;
    // The first round creates the metric series.
    for _ in 0..2 {
        let requests: Vec<_> = (0..REQUESTS).map(|_| request(inbound)).collect();
        let info = allocation_counter::measure(|| {
            for request in requests {
                support::send(&mut app, request);
            }
        });
        counted = info.count_total;
    }
    counted as f64 / REQUESTS as f64
}
