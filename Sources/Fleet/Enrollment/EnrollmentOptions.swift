package import MeshIdentity
package import Platform
package import SSHSignal
import Streams

/// What every enrolment has, with an agent and without: whom it gives which identity, on which terms, and who is asked
/// on the way.
package struct EnrollmentOptions: Sendable {
    /// What the device is called, by its record and in messages.
    package var name: String
    package var id: SPIFFEID
    package var terms: IssuanceTerms
    /// This machine's clock, milliseconds since 1970.
    package var clock: WallClock
    /// Asked once the machine has proven its host key, before anything is changed there: why it must not be enrolled,
    /// or nil.
    package var refusal: @Sendable (HostKey) -> HostError? = { _ in nil }
    /// The same with the host keys that it says it has, the proven one among them.
    package var refusalOfKeys: @Sendable ([MachineKey]) -> HostError? = { _ in nil }
    /// Asked with the identity that the machine has already: why that must stay, or nil.
    package var occupied: @Sendable (PresentIdentity) -> HostError? = { _ in nil }
    /// Where it was installed before; nil where nothing tells.
    package var former: FormerPlace?
    /// Told which revocation lists the machine has, before it gets others.
    package var learn: (@Sendable ([UInt8]) -> Void)?
    package var report: @Sendable (EnrollmentProgress) -> Void

    package init(
        name: String,
        id: SPIFFEID,
        terms: IssuanceTerms = IssuanceTerms(),
        clock: WallClock = .system,
        report: @escaping @Sendable (EnrollmentProgress) -> Void = { _ in }
    ) {
        self.name = name
        self.id = id
        self.terms = terms
        self.clock = clock
        self.report = report
    }

    func warn(_ text: String) { report(.warning("\(name): \(text)")) }

    func timed<Result>(_ step: String, _ body: () async throws -> (Result, String)) async throws -> Result {
        let start = ContinuousClock.now
        let (result, text) = try await body()
        report(.step(step, text, .now - start))
        return result
    }

    func certification(_ issuer: any CertificateIssuer, attest: Certification.Attest?) -> Certification {
        Certification(name: name, id: id, issuer: issuer, terms: terms, attest: terms.attests ? attest : nil)
    }

    /// Logs in, and gives a channel on which a shell was started to `body`, with where this very machine was installed
    /// before, and a way to have the host key sign.
    ///
    /// - Returns: What it returns, and the host key that was proven.
    func visit<Outcome: Sendable>(
        _ login: SSHLogin,
        on loop: EventLoop,
        _ body: (any RemoteChannel, FormerPlace?, @escaping Certification.Attest) async throws -> Outcome
    ) async throws(HostError) -> (outcome: Outcome, hostKey: MachineKey) {
        let start = ContinuousClock.now
        return try await login.visit(name, on: loop) { client in
            report(.step("connect", "\(client.serverVersion), host key \(client.hostKey)", .now - start))
            if let refusal = refusal(client.hostKey) { throw refusal }
            let channel = try await SSHProcessChannel(client, command: RemoteShell.command)
            let attesting = HostKeyAttesting(name: name, client: client, report: report)
            let key = MachineKey(client.hostKey)
            // Another machine that takes a name over has nothing of what the one before has.
            let former = former.flatMap { $0.hostKey == key ? $0 : nil }
            let outcome = try await body(channel, former) { [id] request in
                try await attesting(request, id.trustDomain)
            }
            return (outcome, key)
        }
    }

    /// Finds out what the machine is, and whether it may go on.
    func probe(_ shell: RemoteShell, _ script: String) async throws -> (facts: DeviceFacts, skew: ClockSkew) {
        let asked = clock.milliseconds
        let facts = try DeviceFacts(try await shell.run(script, step: "probe"), name: name)
        if !facts.hostKeys.isEmpty, let refusal = refusalOfKeys(facts.hostKeys) { throw refusal }
        // Found before anything is uploaded; an agent's hello says it once more, and more exactly.
        let skew = facts.skew(asked: asked, answered: clock.milliseconds)
        try skew.check(terms, name: name)
        return (facts, skew)
    }
}
