// Stand-ins for clients that are too heavy to build for the examples of `recipes.md`. Their signatures are
// those of the crates. Their bodies do nothing.

mod rdkafka {
    pub mod message {
        pub trait Message {
            type Headers;
            fn headers(&self) -> Option<&Self::Headers>;
        }
        pub struct Header<'a, V> {
            pub key: &'a str,
            pub value: Option<V>,
        }
        pub trait Headers {
            fn iter(&self) -> std::vec::IntoIter<Header<'_, &[u8]>> {
                Vec::new().into_iter()
            }
        }
        pub struct BorrowedHeaders;
        impl Headers for BorrowedHeaders {}
        pub struct BorrowedMessage;
        impl Message for BorrowedMessage {
            type Headers = BorrowedHeaders;
            fn headers(&self) -> Option<&BorrowedHeaders> {
                None
            }
        }
        pub struct OwnedHeaders;
        impl OwnedHeaders {
            pub fn new() -> Self {
                Self
            }
            pub fn insert<V: ?Sized>(self, _: Header<'_, &V>) -> Self {
                self
            }
        }
    }
    pub mod error {
        pub type KafkaError = std::io::Error;
    }
    pub mod producer {
        use super::error::KafkaError;
        use super::message::OwnedHeaders;

        pub struct FutureRecord;
        impl FutureRecord {
            pub fn to(_: &str) -> Self {
                Self
            }
            pub fn key(self, _: &str) -> Self {
                self
            }
            pub fn payload(self, _: &str) -> Self {
                self
            }
            pub fn headers(self, _: OwnedHeaders) -> Self {
                self
            }
        }
        pub struct FutureProducer;
        impl FutureProducer {
            pub async fn send(
                &self,
                _: FutureRecord,
                _: std::time::Duration,
            ) -> Result<(), (KafkaError, ())> {
                Ok(())
            }
        }
    }
}

mod async_nats {
    use std::collections::HashMap;

    pub struct HeaderValue(String);
    impl HeaderValue {
        pub fn as_str(&self) -> &str {
            &self.0
        }
    }
    #[derive(Default)]
    pub struct HeaderMap(HashMap<String, Vec<HeaderValue>>);
    impl HeaderMap {
        pub fn new() -> Self {
            Self::default()
        }
        pub fn insert(&mut self, name: &str, value: &str) {
            let values = vec![HeaderValue(value.to_owned())];
            self.0.insert(name.to_owned(), values);
        }
        pub fn iter(&self) -> std::collections::hash_map::Iter<'_, String, Vec<HeaderValue>> {
            self.0.iter()
        }
    }
    pub struct Message {
        pub headers: Option<HeaderMap>,
    }
    pub type PublishError = std::io::Error;
    pub struct Client;
    impl Client {
        pub async fn publish_with_headers(
            &self,
            _: &'static str,
            _: HeaderMap,
            _: bytes::Bytes,
        ) -> Result<(), PublishError> {
            Ok(())
        }
    }
}

mod aws_sdk_sqs {
    pub mod types {
        use std::collections::HashMap;

        pub struct MessageAttributeValue(Option<String>);
        impl MessageAttributeValue {
            pub fn builder() -> builders::MessageAttributeValueBuilder {
                builders::MessageAttributeValueBuilder
            }
            pub fn string_value(&self) -> Option<&str> {
                self.0.as_deref()
            }
        }
        pub struct Message(Option<HashMap<String, MessageAttributeValue>>);
        impl Message {
            pub fn message_attributes(&self) -> Option<&HashMap<String, MessageAttributeValue>> {
                self.0.as_ref()
            }
        }
        pub mod builders {
            pub struct MessageAttributeValueBuilder;
            impl MessageAttributeValueBuilder {
                pub fn data_type(self, _: impl Into<String>) -> Self {
                    self
                }
                pub fn string_value(self, _: impl Into<String>) -> Self {
                    self
                }
                pub fn build(self) -> Result<super::MessageAttributeValue, std::fmt::Error> {
                    Ok(super::MessageAttributeValue(None))
                }
            }
        }
    }
}

mod redis {
    pub enum Value {
        Nil,
        BulkString(Vec<u8>),
    }
    pub mod streams {
        pub struct StreamId {
            pub id: String,
            pub map: std::collections::HashMap<String, super::Value>,
        }
    }
}

mod lambda_http {
    pub type Error = Box<dyn std::error::Error + Send + Sync>;
    pub type Request = http::Request<axum::body::Body>;
    pub struct Body;
    impl From<Vec<u8>> for Body {
        fn from(_: Vec<u8>) -> Self {
            Self
        }
    }
    pub async fn run<S, F>(_: S) -> Result<(), Error>
    where
        S: Fn(Request) -> F,
        F: Future<Output = Result<http::Response<Body>, Error>> + Send,
    {
        Ok(())
    }
    pub fn service_fn<F>(f: F) -> F {
        f
    }
}

mod poem {
    pub mod body {
        pub struct BoxBody;
    }
    pub struct Route;
    impl Route {
        pub fn new() -> Self {
            Self
        }
        pub fn at<S>(self, _: &str, _: endpoint::TowerCompatEndpoint<S>) -> Self {
            self
        }
    }
    pub mod endpoint {
        pub struct TowerCompatEndpoint<S>(S);
        pub trait TowerCompatExt {
            fn compat<ResBody, Err, Fut>(self) -> TowerCompatEndpoint<Self>
            where
                ResBody: http_body::Body + Send + Sync + 'static,
                ResBody::Data: Into<bytes::Bytes> + Send + 'static,
                ResBody::Error: std::error::Error + Send + Sync + 'static,
                Self: tower::Service<
                        http::Request<super::body::BoxBody>,
                        Response = http::Response<ResBody>,
                        Error = Err,
                        Future = Fut,
                    > + Clone
                    + Send
                    + Sync
                    + Sized
                    + 'static,
                Fut: Future<Output = Result<http::Response<ResBody>, Err>> + Send + 'static,
            {
                TowerCompatEndpoint(self)
            }
        }
        impl<T> TowerCompatExt for T {}
    }
}
