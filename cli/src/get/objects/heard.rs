//! What a storage has answered: the library's errors have it in words for people only.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use reqwest::StatusCode;

/// The last answer to any request of a client, and which host has given it.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Option<(String, StatusCode)>>>);

impl Heard {
    /// The last answer, if it was a refusal.
    pub(super) fn refusal(&self) -> Option<(String, StatusCode)> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().filter(|(_, status)| status.is_client_error())
    }

    fn note(&self, heard: Option<(String, StatusCode)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }
}

impl HttpConnector for Heard {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Listening {
            client: ReqwestConnector::default().connect(options)?,
            heard: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Listening {
    client: HttpClient,
    heard: Heard,
}

type Answer = Result<HttpResponse, HttpError>;

impl HttpService for Listening {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answer = self.client.execute(request).await;
            let status = answer.as_ref().ok().map(|answer| answer.status());
            self.heard.note(status.map(|status| (host, status)));
            answer
        })
    }
}
