package import SSHSignal
package import Streams

extension SSHLogin {
    /// Logs in, gives the session to `body`, and closes it however that ends.
    ///
    /// - Parameters:
    ///   - name: The device's, for errors.
    ///   - loop: Where the SSH session lives.
    ///   - body: Must not keep the session.
    /// - Throws: ``HostError``, whatever `body` throws.
    package func visit<Outcome: Sendable>(
        _ name: String,
        on loop: EventLoop,
        _ body: (SSHClient) async throws -> Outcome
    ) async throws(HostError) -> Outcome {
        do {
            let client = try await connect(on: loop)
            do {
                let outcome = try await body(client)
                await client.close()
                return outcome
            } catch {
                // Everything on a connection that is lost fails with it, each in its own words.
                let loss = await client.failure()
                await client.close()
                guard let loss, [.connectionLost, .timedOut].contains(loss.code) else { throw error }
                throw HostError(.interrupted, HostError(error, name: name).message)
            }
        } catch {
            throw HostError(error, name: name)
        }
    }
}
