package import MeshIdentity
import Platform
package import SSHSignal
import Streams

/// What an enrolled device really has, read over a login. Nothing is changed there.
package struct DeviceReading: Sendable {
    /// The certificate in its credential; nil where that cannot be read.
    package var certificate: Certificate?
    /// Why not, for people.
    package var problem: String?
    /// The release of the agent in use, `0.1.0-3f1be2c71a90`; nil without an agent.
    package var release: String?
    /// The process of its node is there; nil without an agent.
    package var runsNode: Bool?
    /// Why its node could not start again, for people; nil: it could, as far as is known.
    package var fault: String?
    /// What others may reach, as its configuration has it; nil where that is not one of an enrolment's.
    package var allowed: [String]?
    /// Those that it is reached through.
    package var gateways: [DeviceGateway] = []
    package var skew: ClockSkew

    /// - Parameters:
    ///   - record: The device.
    ///   - client: A login there.
    /// - Throws: ``HostError``: the machine is another one than was enrolled, or its shell's answer makes no sense.
    package static func read(_ record: Device, on client: SSHClient) async throws(HostError) -> DeviceReading {
        do {
            if case .refused(let error) = EnrollmentAdmission(reinstates: true).decide(
                record,
                destination: record.destination,
                hostKey: .init(client.hostKey)
            ) {
                throw error
            }
            let channel = try await SSHProcessChannel(client, command: RemoteShell.command)
            defer { channel.close() }
            let asked = WallClock.system.milliseconds
            let output = try await RemoteShell(channel, name: record.name).run(script(record), step: "reading")
            return try DeviceReading(output, record, asked: asked, answered: WallClock.system.milliseconds)
        } catch {
            throw HostError(error, name: record.name)
        }
    }

    /// What `node --check` says. One that does not know the question, or is not there, says nothing of the files.
    private static func fault(_ status: String?, _ lines: [String]) -> String? {
        guard status == "2", let first = lines.first, first.hasPrefix("error: "), !first.contains("Unknown option")
        else { return nil }
        let said = lines.prefix { !$0.hasPrefix("Usage:") }.joined(separator: "; ")
        return Printable.clean(said.dropFirst(7), limit: 500)
    }

    private static func hasAgent(_ record: Device) -> Bool { (record.keyOrigin ?? .device) == .device }

    static func script(_ record: Device) -> String {
        let state = record.agent.state
        let directory = hasAgent(record) ? "\(state)/identity" : state
        // Two directories up from the agent: where the releases are.
        let root = record.agent.path.split(separator: "/").dropLast(2).joined(separator: "/")
        let agent = """
            link=$(readlink \(ShellScript.quote("/\(root)/current") ) 2>/dev/null) && echo "release=${link##*/}"
            stat=
            p=\(ShellScript.quote("\(state)/node.pid"))
            [ -f "$p" ] && read -r pid 2>/dev/null <"$p" && read -r stat 2>/dev/null <"/proc/$pid/stat"
            # One that has ended and that nobody has collected is still listed.
            case "$stat" in ''|*') Z '*|*') X '*) echo node=0;; *) echo node=1;; esac
            y=\(ShellScript.quote("\(state)/node.yaml"))
            if [ -f "$y" ]; then
                said=$(\(ShellScript.quote("/\(root)/current/bootstrap")) node --check --config "$y" 2>&1 </dev/null)
                echo "check=$?"
                echo "$said" | head -n 8 | sed 's/^/check:/'
                head -c 65536 "$y" | sed 's/^/yaml:/'
            fi
            if [ -f "$y" ] && grep -q '^ *reverse:' "$y" 2>/dev/null; then
                l=\(ShellScript.quote("\(state)/node.log"))
                for f in "$l.1" "$l"; do
                    [ -f "$f" ] && grep -e 'through the gateway' -e 'no connection to the gateway' "$f" 2>/dev/null
                done | tail -n 64 | sed 's/^/gateway:/'
            fi
            """
        return """
            PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            echo "epoch=$(date +%s)"
            \(hasAgent(record) ? agent : "")
            f=\(ShellScript.quote("\(directory)/cert-chain.pem"))
            if [ ! -e "$f" ]; then echo problem=missing
            elif [ ! -f "$f" ]; then echo problem=irregular
            elif [ ! -r "$f" ]; then echo problem=unreadable
            else while IFS= read -r line || [ -n "$line" ]; do echo "cert:$line"; done <"$f"; fi
            echo done=1
            """
    }

    init(_ output: RemoteShell.Output, _ record: Device, asked: Int64, answered: Int64) throws(SignalError) {
        let values = output.values
        guard values["done"] == "1", let clock = values["epoch"].flatMap({ Int64($0) }) else {
            let said = Printable.clean(output.lines.suffix(3).joined(separator: " "), limit: 200)
            throw SignalError(.malformed, "\(record.name): its shell does not answer as one (\(said))")
        }
        skew = ClockSkew(deviceSeconds: clock, asked: asked, answered: answered)
        if Self.hasAgent(record) {
            release = values["release"].map { Printable.clean($0, limit: 100) }
            runsNode = values["node"] == "1"
            func lines(_ mark: String) -> [String] {
                output.lines.filter { $0.hasPrefix(mark) }.map { String($0.dropFirst(mark.count)) }
            }
            let configuration = lines("yaml:").joined(separator: "\n")
            allowed = EnrolledConfiguration.allowed(in: configuration)
            fault = Self.fault(values["check"], lines("check:"))
            gateways = DeviceGateway.read(
                configuration,
                log: lines("gateway:"),
                isRunning: runsNode == true
            )
        }
        let file =
            Self.hasAgent(record)
            ? "\(record.agent.state)/identity/cert-chain.pem" : "\(record.agent.state)/cert-chain.pem"
        switch values["problem"] {
        case "missing": problem = "there is no \(file)"
        case "irregular": problem = "\(file) is no regular file"
        case "unreadable": problem = "\(file) cannot be read by this account"
        default:
            let pem = output.lines.filter { $0.hasPrefix("cert:") }.map { $0.dropFirst(5) + "\n" }.joined()
            do throws(IdentityError) {
                certificate = try Certificate.all(pem: Array(pem.utf8)).first
            } catch {
                problem = "\(file): \(error.message)"
            }
        }
    }
}
