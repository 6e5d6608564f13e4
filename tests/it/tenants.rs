//! Tenant attributes on request metrics, with more tenants than there is room for.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::KeyValue;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::add_request_attributes;

use crate::support::{TestTelemetry, Value};

/// The maximum number of series per route and method.
const MAX_SERIES: usize = 512;

/// The maximum number of values per key.
const MAX_VALUES: usize = 64;

/// Sends `rounds` requests for each tenant to a handler that adds the tenant's attributes. Returns
/// the counts by these attributes. The counts of the histograms must be equal.
async fn serve(
    tenants: &[Vec<(&'static str, String)>],
    rounds: usize,
) -> BTreeMap<Vec<(String, String)>, u64> {
    let telemetry = TestTelemetry::new();
    let service = telemetry
        .layer()
        .layer(service_fn(|request: Request<usize>| {
            let tenant = tenants[*request.body()].clone();
            async {
                let attributes = tenant.into_iter();
                add_request_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)));
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        }));
    for _ in 0..rounds {
        for tenant in 0..tenants.len() {
            let response = service.clone().oneshot(Request::new(tenant)).await;
            drop(response.expect("the service cannot fail"));
        }
    }
    let own = |point: &crate::support::Point| {
        let keys = ["tenant", "plan", "otel.metric.overflow"];
        let attributes = point.attributes.iter();
        let own = attributes.filter(|(key, _)| keys.contains(&key.as_str()));
        own.map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    let mut counts = BTreeMap::new();
    for point in telemetry.points("http.requests") {
        let Value::Count(count) = point.value else {
            panic!("{point:?}");
        };
        assert_eq!(counts.insert(own(&point), count), None, "{point:?}");
    }
    for name in ["http.duration", "http.server.request.duration"] {
        let points = telemetry.points(name);
        let histograms = points
            .iter()
            .map(|point| (own(point), point.value.histogram().0));
        assert_eq!(histograms.collect::<BTreeMap<_, _>>(), counts, "{name}");
    }
    let requests = tenants.len() * rounds;
    assert_eq!(counts.values().sum::<u64>(), requests as u64);
    counts
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test]
async fn tenants_beyond_the_values_of_a_key_share_one_series_and_none_is_lost() {
    for count in [1, MAX_VALUES - 1, MAX_VALUES, MAX_VALUES + 1, 300] {
        let tenants = (0..count).map(|n| vec![("tenant", format!("t{n}"))]);
        let counts = serve(&tenants.collect::<Vec<_>>(), 3).await;
        let kept = (0..count.min(MAX_VALUES)).map(|n| (vec![pair("tenant", &format!("t{n}"))], 3));
        let mut expected: BTreeMap<_, _> = kept.collect();
        if count > MAX_VALUES {
            let rest = 3 * (count - MAX_VALUES) as u64;
            expected.insert(vec![pair("tenant", "_OTHER")], rest);
        }
        assert_eq!(counts, expected, "{count}");
    }
}

#[tokio::test]
async fn attribute_sets_beyond_the_room_of_a_route_are_its_overflow_and_none_is_lost() {
    for count in [MAX_SERIES - 1, MAX_SERIES, MAX_SERIES + 1, 900] {
        let tenants = (0..count).map(|n| {
            let (plan, tenant) = (format!("p{}", n / 30), format!("t{}", n % 30));
            vec![("tenant", tenant), ("plan", plan)]
        });
        let tenants: Vec<_> = tenants.collect();
        let counts = serve(&tenants, 2).await;
        let kept = tenants.iter().take(MAX_SERIES).map(|tenant| {
            let [(_, tenant), (_, plan)] = &tenant[..] else {
                panic!("a tenant has two attributes");
            };
            (vec![pair("plan", plan), pair("tenant", tenant)], 2)
        });
        let mut expected: BTreeMap<_, _> = kept.collect();
        if count > MAX_SERIES {
            let rest = 2 * (count - MAX_SERIES) as u64;
            expected.insert(vec![pair("otel.metric.overflow", "true")], rest);
        }
        assert_eq!(counts, expected, "{count}");
    }
}
