import Foundation
import Platform
import Testing

@testable import Fleet

/// What `status` prints, and what the documents say that it prints.
@Suite struct StatusTableTests {
    private let now = 999_050_000 as Int64

    private func device(_ name: String, renewed: Int64? = nil) throws -> Device {
        var device = try DeviceDirectoryTests.record(name, destination: "root@\(name).example:2222")
        (device.notAfter, device.lifetime, device.renewedAt) = (now + 85_260, 86_400, renewed)
        return device
    }

    private func columns(_ line: some StringProtocol) -> [String] {
        String(line).split(whereSeparator: \.isWhitespace).map(String.init)
    }

    /// Whatever the devices are called, and whatever became of them.
    @Test func theColumnsAreAlwaysTheSameAndFit() throws {
        let long = String(repeating: "a-long-name-", count: 9)
        var ended = try device("ended")
        ended.notAfter = now - 86_000
        let fleets = [
            [try device("a")], [try device("a", renewed: now - 86_000)],
            [try device(long, renewed: now - 86_000), ended],
        ]
        let tables = fleets.map { devices in
            DeviceStatus.table(devices.map { DeviceStatus($0, at: now) }, at: now)
        }
        let probed = fleets.map { devices in DeviceFindings.table(devices.map { DeviceFindings(device: $0) }, at: now) }
        for (kind, heading) in [
            (tables, ["NAME", "STATE", "CERTIFICATE", "RENEWED", "DESTINATION"]),
            (probed, ["NAME", "STATE", "SSH", "MESH", "CERTIFICATE", "DESTINATION"]),
        ] {
            for lines in kind {
                #expect(columns(lines[0]) == heading)
                #expect(lines.allSatisfy { $0.count <= 80 }, "\(lines.joined(separator: "\n"))")
            }
        }
        // What is cut is seen to be.
        #expect(tables[2][1].contains("…"), "\(tables[2][1])")
        #expect(!tables[0][1].contains("…"), "\(tables[0][1])")
    }

    /// A port that `-p` named at enrolment is one of the things that are known.
    @Test func theSSHPortIsShownWhereTheDestinationDoesNotSayIt() throws {
        var device = try device("dev7")
        func line() -> String? {
            DeviceStatus(device, at: now).details(at: now).first { $0.contains("destination") }
        }
        device.ssh.port = 2200
        #expect(line() == "  destination   root@dev7.example:2222")
        device.destination = "root@dev7.example"
        #expect(line() == "  destination   root@dev7.example, SSH port 2200")
        device.ssh.port = 22
        #expect(line() == "  destination   root@dev7.example")
    }

    /// Nobody has to ask the device for what is on record of it.
    @Test func gatewaysAreShownAsTheyAreOnRecord() throws {
        var device = try device("dev7")
        func line() -> String? {
            DeviceStatus(device, at: now).details(at: now).first { $0.hasPrefix("  gateways") }
        }
        #expect(line() == nil)
        device.gateways = []
        #expect(line() == nil)
        device.gateways = ["gw.example.org:15008", "192.0.2.9:443=spiffe://mesh.example/ns/edge/sa/gw"]
        #expect(
            line() == "  gateways      gw.example.org:15008; 192.0.2.9:443, spiffe://mesh.example/ns/edge/sa/gw"
        )
    }

    /// The examples of docs/identity.md have the columns of the tool.
    @Test func theDocumentedExamples() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../docs/identity.md")
        let documented = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
            .filter { $0.hasPrefix("    NAME ") }
        let device = try device("dev7")
        let printed = [
            DeviceStatus.table([DeviceStatus(device, at: now)], at: now),
            DeviceFindings.table([DeviceFindings(device: device)], at: now),
        ]
        let headings = printed.map { columns($0[0]) }
        // Of `status` there are two.
        #expect(documented.map { columns($0) } == headings + [headings[0]])
        #expect(documented.allSatisfy { $0.count <= 84 })
    }

    /// A command that goes on tells of it once, when it is so, and again after a renewal.
    @Test func aCertificateThatEndsIsToldOnce() throws {
        var device = try device("dev7")
        var watch = CertificateWatch("dev7", in: DeviceDirectory("/nowhere/devices"))
        #expect(watch.warning(device, at: now) == nil)
        let late = device.notAfter - 3600
        let first = watch.warning(device, at: late)
        #expect(
            first?.contains("the certificate of dev7 ends in") == true
                && first?.contains("bootstrap renew dev7") == true
        )
        #expect(watch.warning(device, at: late + 60) == nil)
        #expect(watch.warning(device, at: device.notAfter + 1)?.contains("ended") == true)
        #expect(watch.warning(device, at: device.notAfter + 2) == nil)
        device.notAfter += 86_400
        #expect(watch.warning(device, at: late + 3700) == nil)
        #expect(watch.warning(device, at: device.notAfter - 60)?.contains("ends in") == true)
    }
}
