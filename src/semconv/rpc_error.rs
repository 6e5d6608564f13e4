//! Codes of gRPC calls that fail without a code from the server.

use std::error::Error;

use h2::Reason;

use crate::semconv::error_chain::walk_errors;
use crate::semconv::rpc::Code;

impl Code {
    /// Returns the code that a client reports for an error.
    ///
    /// With the feature `tonic`, it is the code of `tonic::Status::from_error`. Without the
    /// feature, errors of hyper and h2 have the same codes, and the code of any other error depends
    /// on whether a response has arrived.
    pub(crate) fn from_error(error: Option<&(dyn Error + 'static)>, is_answered: bool) -> Self {
        let fallback = match (cfg!(feature = "tonic"), is_answered) {
            (true, _) => Self::UNKNOWN,
            (false, false) => Self::UNAVAILABLE,
            (false, true) => Self::INTERNAL,
        };
        let Some(outermost) = error else {
            return fallback;
        };
        if let Some(error) = outermost.downcast_ref::<h2::Error>() {
            return Self::from_h2(error);
        }
        if cfg!(feature = "tonic") && outermost.is::<tower::load_shed::error::Overloaded>() {
            return Self::RESOURCE_EXHAUSTED;
        }
        // Only `Error::source`, as tonic does. `ErrorChain` finds more sources.
        walk_errors(error, |error| error.source())
            .find_map(Self::from_source)
            .unwrap_or(fallback)
    }

    fn from_source(error: &(dyn Error + 'static)) -> Option<Self> {
        #[cfg(feature = "tonic")]
        {
            if let Some(status) = error.downcast_ref::<tonic::Status>() {
                return Some(Self::from_status(status));
            }
            if error.is::<tonic::TimeoutExpired>() {
                return Some(Self::CANCELLED);
            }
            if error.is::<tonic::ConnectError>() {
                return Some(Self::UNAVAILABLE);
            }
        }
        let error = error.downcast_ref::<hyper::Error>()?;
        if error.is_timeout() {
            return Some(Self::UNAVAILABLE);
        }
        if error.is_canceled() {
            return Some(Self::CANCELLED);
        }
        let source = error.source()?.downcast_ref::<h2::Error>()?;
        Some(Self::from_h2(source))
    }

    fn from_h2(error: &h2::Error) -> Self {
        match error.reason() {
            Some(
                Reason::NO_ERROR
                | Reason::PROTOCOL_ERROR
                | Reason::INTERNAL_ERROR
                | Reason::FLOW_CONTROL_ERROR
                | Reason::SETTINGS_TIMEOUT
                | Reason::FRAME_SIZE_ERROR
                | Reason::COMPRESSION_ERROR
                | Reason::CONNECT_ERROR,
            ) => Self::INTERNAL,
            Some(Reason::REFUSED_STREAM) => Self::UNAVAILABLE,
            Some(Reason::CANCEL) => Self::CANCELLED,
            Some(Reason::ENHANCE_YOUR_CALM) => Self::RESOURCE_EXHAUSTED,
            Some(Reason::INADEQUATE_SECURITY) => Self::PERMISSION_DENIED,
            _ => Self::UNKNOWN,
        }
    }
}

#[cfg(all(test, feature = "tonic"))]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::semconv::test_errors::{Erased, Wrapped};

    fn errors() -> Vec<Erased> {
        let mut errors: Vec<Erased> = (0..16)
            .map(|reason| h2::Error::from(Reason::from(reason)).into())
            .collect();
        errors.extend((0..17).map(|code| {
            let code = tonic::Code::from_i32(code);
            Erased::from(tonic::Status::new(code, "a message"))
        }));
        errors.push(tonic::TimeoutExpired(()).into());
        errors.push(tonic::ConnectError("no way".into()).into());
        errors.push(tower::load_shed::error::Overloaded::new().into());
        errors.push(tower::timeout::error::Elapsed::new().into());
        errors.push(io::Error::from(io::ErrorKind::ConnectionReset).into());
        errors.push("a text".into());
        errors
    }

    #[test]
    fn the_code_of_an_error_equals_that_of_tonic() {
        let wrappers: [fn(Erased) -> Erased; 4] = [
            |error| error,
            |error| Wrapped(error).into(),
            |error| Wrapped(Wrapped(error).into()).into(),
            |error| io::Error::other(error).into(),
        ];
        for (wrapper, wrap) in wrappers.into_iter().enumerate() {
            for error in errors().into_iter().map(wrap) {
                let text = format!("{wrapper}: {error:?}");
                let code = Code::from_error(Some(&*error), false);
                let expected = tonic::Status::from_error(error).code();
                assert_eq!(code, Code(expected as u8), "{text}");
            }
        }
    }

    /// Provokes errors of hyper, which cannot be constructed.
    #[tokio::test]
    async fn the_code_of_a_hyper_error_equals_that_of_tonic() {
        let (client, server) = tokio::io::duplex(1024);
        let io = hyper_util::rt::TokioIo::new(client);
        let executor = hyper_util::rt::TokioExecutor::new();
        let builder = hyper::client::conn::http2::Builder::new(executor);
        let (mut sender, connection) = builder.handshake(io).await.expect("the connection is open");
        tokio::spawn(connection);
        let mut server = h2::server::handshake(server)
            .await
            .expect("the client sends a preface");
        tokio::spawn(async move {
            let mut reason = 0;
            while let Some(Ok((_, mut stream))) = server.accept().await {
                stream.send_reset(Reason::from(reason));
                reason += 1;
            }
        });
        for reason in 0..14 {
            let request = http::Request::new(String::new());
            let sent = tokio::time::timeout(Duration::from_secs(20), sender.send_request(request));
            let error = sent
                .await
                .expect("the server responds")
                .expect_err("the stream was reset");
            let code = Code::from_error(Some(&error), false);
            let expected = tonic::Status::from_error(error.into()).code();
            assert_eq!(code, Code(expected as u8), "{reason}");
        }
    }
}
