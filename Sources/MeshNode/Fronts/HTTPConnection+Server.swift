import MeshPolicy
import Streams

/// The streams on which exchanges go on.
extension HTTPConnection {
    /// Opens the stream of a plan; ``cancel`` ends that with the client.
    func open(_ plan: StreamPlan, _ completion: @escaping (Result<StreamOpener.Opened, StreamError>) -> Void) {
        var isDone = false
        func opened(_ result: Result<StreamOpener.Opened, StreamError>) {
            isDone = true
            self.cancel = nil
            completion(result)
        }
        let cancel =
            opensHTTP2
            ? HTTP2ServerStream.open(plan, from: client, carrier, completion: opened)
            : carrier.open(plan, from: client, completion: opened)
        if !isDone { self.cancel = cancel }
    }

    /// Goes on with an exchange: on the stream of the one before, where that leads to the same server and policy lets
    /// this request have it, too.
    func carry(_ exchange: HTTPExchange) {
        self.exchange = exchange
        guard let server, server.authority == exchange.destination, server.isHTTP2 == opensHTTP2 else {
            return openServer()
        }
        if let session = server.opened.stream as? HTTP2ServerStream, !session.isUsable { return openServer() }
        let plan = carrier.opener.plan(streamRequest(to: exchange.destination))
        if case .refused(let refusal) = plan.outcome {
            carrier.report(refusal.error, to: exchange.destination)
            return answerInstead(.failed(refusal.error, isLocal: isLocal))
        }
        guard carrier.mayGoOn(plan, on: server.opened, of: server.plan) else { return openServer(plan) }
        isReused = true
        state = .exchange
        server.use.request = plan.request
        startClock()
        server.stream.wake()
        watchClient()
    }

    /// Opens a stream for the exchange.
    func openServer(_ plan: StreamPlan? = nil) {
        guard let exchange else { return }
        server?.stream.letGo()
        server = nil
        isReused = false
        state = .waiting
        timer?.cancel()
        let plan = plan ?? carrier.opener.plan(streamRequest(to: exchange.destination))
        open(plan) { [self] result in
            switch result {
            case .success(let opened):
                state = .exchange
                let stream = HTTPServerStream(for: self)
                let use = StreamUse(plan.request)
                server = Server(stream: stream, opened: opened, plan: plan, use: use, isHTTP2: opensHTTP2)
                startClock()
                carrier.join(stream, certificate: certificate, opened, plan.request, use: use)
                watchClient()
            case .failure(let error): answerInstead(.failed(error, isLocal: isLocal))
            }
        }
    }
}
