import H2Transport
import MeshIdentity
import MeshPaths
import Platform
import Streams

/// Whether its node answers over the mesh.
extension DeviceChecks {
    /// With the real handshake: a port that takes connections proves nothing.
    func nativePath(_ device: Device, on loop: EventLoop) async {
        let context: TLSContext
        do {
            context = try self.context(device)
        } catch {
            return report(.failure("path h2", "there is no credential to show: \(error)", fix: "bootstrap ca init"))
        }
        var findings: [Finding] = []
        for authority in device.hbone {
            let finding = await tryPath(authority, context, device.identity, on: loop)
            if finding.verdict == .good { return report(finding) }
            findings.append(finding)
        }
        if findings.isEmpty {
            findings = [
                .warning("path h2", "no address of it is known", fix: "bootstrap enroll \(device.destination)")
            ]
        }
        for finding in findings { report(finding) }
    }

    private func tryPath(
        _ authority: Authority,
        _ context: TLSContext,
        _ expected: SPIFFEID,
        on loop: EventLoop
    ) async -> Finding {
        do {
            let addresses = try await Resolver.resolve(host: authority.host, port: authority.port)
            guard let address = addresses.first else { throw StreamError(.unreachable, "\(authority) has no address") }
            let answer = try await TunnelProbe.run(
                address,
                context: context,
                expecting: .identities([expected]),
                on: loop
            )
            return .good("path h2", "\(authority) is \(expected), in \(Int(answer.duration / .milliseconds(1))) ms")
        } catch let error as StreamError {
            return explain(error, "\(authority)")
        } catch {
            return .failure("path h2", "\(authority): \(error)", fix: nil)
        }
    }

    private func explain(_ error: StreamError, _ address: String) -> Finding {
        let explanation = PathErrorExplanation(error, name: device?.name ?? destination)
        let fallback = "streams go over SSH until then"
        switch error.code {
        case .authentication:
            return .failure(
                "path h2",
                "\(address): \(error.message)",
                fix: "\(explanation.fix); never is another path taken instead",
                explanation.reason
            )
        case .timedOut:
            return .warning(
                "path h2",
                "\(address): no answer (filtered): \(error.message)",
                fix: "\(explanation.fix); \(fallback)"
            )
        case .refused:
            return .warning(
                "path h2",
                "\(address): nobody listens there",
                fix: "\(explanation.fix); \(fallback)"
            )
        default:
            return .warning("path h2", "\(address): \(error.message)", fix: fallback)
        }
    }
}
