import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

@Suite struct DeviceDirectoryTests {
    let home = TemporaryDirectory()
    var devices: DeviceDirectory { DeviceDirectory(home.path("devices")) }

    static func record(_ name: String, destination: String = "root@dev7:2222") throws -> Device {
        let key = try #require(HostKey(blob: [0, 0, 0, 11] + Array("ssh-ed25519".utf8) + [1, 2, 3]))
        return Device(
            name: name,
            destination: destination,
            ssh: .init(
                SSHArguments(
                    configurationFile: "/c",
                    options: ["Tunnel=no"],
                    identityFiles: ["/k"],
                    port: 22,
                    jump: "j"
                )
            ),
            hostKey: .init(key),
            identity: try SPIFFEID("spiffe://demo.example/ns/default/sa/\(name)"),
            hbone: [try Authority(parsing: "10.0.0.7:15008")],
            agent: .init(path: "/opt/bootstrap/x/bootstrap", state: "/opt/bootstrap/state", sha256: "00"),
            notAfter: 1_000_000_000,
            enrolledAt: 999_000_000
        )
    }

    @Test func savedIsFound() throws {
        #expect(try devices.all() == [])
        #expect(try devices.record(named: "dev7") == nil)
        let seven = try Self.record("dev7")
        let eight = try Self.record("dev8", destination: "dev8")
        try devices.save(eight)
        try devices.save(seven)
        #expect(try devices.record(named: "dev7") == seven)
        #expect(try devices.all() == [seven, eight])
        #expect(try devices.device(for: "dev7") == seven)
        #expect(try devices.device(for: "root@dev7:2222") == seven)
        #expect(try devices.device(for: "spiffe://demo.example/ns/default/sa/dev8") == eight)
        #expect(try devices.device(for: "nobody@nowhere") == nil)
        #expect(seven.ssh.arguments.jump == "j")
        var changed = seven
        changed.hbone = []
        try devices.save(changed)
        #expect(try devices.record(named: "dev7") == changed)
        try devices.remove(named: "dev7")
        try devices.remove(named: "dev7")
        #expect(try devices.all() == [eight])
    }

    @Test func sameDestinationTwiceIsAmbiguous() throws {
        try devices.save(try Self.record("a"))
        try devices.save(try Self.record("b"))
        let error = #expect(throws: DeviceDirectoryError.self) { try devices.device(for: "root@dev7:2222") }
        #expect(error?.message.contains("a, b") == true)
    }

    @Test(arguments: ["", "../x", "a/b", ".hidden", "a b", "ä", "a\u{0}b"])
    func namesStayInTheDirectory(name: String) throws {
        var record = try Self.record("x")
        record.name = name
        #expect(throws: DeviceDirectoryError.self) { try devices.save(record) }
        #expect(throws: DeviceDirectoryError.self) { try devices.record(named: name) }
    }

    /// Earlier releases had a file for each device: they are taken over once, and left as they are.
    @Test func filesOfEarlierReleasesAreImportedOnce() throws {
        let seven = try Self.record("dev7")
        try home.write("devices/dev7.json", JSONEncoder().encode(seven).map { $0 })
        try home.write("devices/.dev8.json.1234", "half of a file")
        #expect(try devices.all() == [seven])
        try devices.remove(named: "dev7")
        #expect(try devices.all() == [])
        #expect(FileManager.default.fileExists(atPath: home.path("devices/dev7.json")))
    }

    /// Between the look at a device and the record of its renewal another operator may have revoked it.
    @Test func aChangeIsOfWhatTheLedgerHasByThen() throws {
        var device = try Self.record("dev7")
        device.serial = "01"
        try devices.save(device)
        _ = try devices.ledger.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
        let changed = try devices.update("dev7", by: "renew", "renewed") { $0.serial = "02" }
        #expect(changed.serial == "02")
        #expect(changed.revocationReason == "stolen")
        #expect(try devices.record(named: "dev7") == changed)
        #expect(try devices.ledger.events(of: "dev7").first?.what == "renewed")
    }

    /// Nor does a device that was removed meanwhile come back.
    @Test func whatIsNotThereIsNotChanged() throws {
        try devices.save(try Self.record("dev7"))
        try devices.remove(named: "dev7")
        let error = #expect(throws: DeviceDirectoryError.self) {
            try devices.update("dev7", by: "renew", "renewed") { $0.serial = "02" }
        }
        #expect(error?.message.contains("no device 'dev7'") == true)
        #expect(try devices.all() == [])
    }

    /// What a release before has written is read, and written again as it was.
    @Test func aRecordOfAnEarlierReleaseStaysAsItIs() throws {
        let text = """
            {"agent":{"path":"/opt/bootstrap/0.1.0-aaaaaaaaaaaa/bootstrap","sha256":"aa","state":"/opt/bootstrap/state"},\
            "destination":"root@10.0.0.7:2222","enrolledAt":1700000000,"hbone":["10.0.0.7:15008","[2001:db8::7]:15008"],\
            "hostKey":{"algorithm":"ssh-ed25519","fingerprint":"SHA256:abc"},\
            "identity":"spiffe://mesh.example/ns/prod/sa/dev7","labels":{"site":"berlin"},"lifetime":3600,"name":"dev7",\
            "notAfter":1700003600,"roots":["ab"],"serial":"0102","ssh":{"identityFiles":["/k"],"options":["A=b"],"port":22}}
            """
        try home.write("devices/dev7.json", text)
        let device = try #require(try devices.record(named: "dev7"))
        #expect(device.identity == (try SPIFFEID("spiffe://mesh.example/ns/prod/sa/dev7")))
        #expect(device.hbone.map(\.port) == [15008, 15008])
        #expect(device.hbone[1].host == "2001:db8::7")
        #expect(try devices.ledger.device(named: "dev7")?.record == text)
        try devices.update("dev7", by: "renew", "renewed") { $0.serial = "0103" }
        let changed = text.replacingOccurrences(of: "\"0102\"", with: "\"0103\"")
        #expect(try devices.ledger.device(named: "dev7")?.record == changed)
    }

    @Test func anIdentityThatIsNoneIsFoundWhereItIsRead() throws {
        let device = try Self.record("dev7")
        try devices.save(device)
        _ = try devices.ledger.updateDevice(named: "dev7", by: "test", "damaged") { row in
            row.record = row.record.replacingOccurrences(of: "spiffe://", with: "nonsense")
        }
        let error = #expect(throws: DeviceDirectoryError.self) { try devices.record(named: "dev7") }
        #expect(error?.message.contains("the record of dev7") == true)
    }

    @Test func aDamagedFileOfAnEarlierReleaseIsNamed() throws {
        try home.write("devices/dev7.json", "{\"name\":\"dev7\"}")
        let error = #expect(throws: DeviceDirectoryError.self) { try devices.all() }
        #expect(error?.message.contains("devices/dev7.json") == true)
        try FileManager.default.removeItem(atPath: home.path("devices/dev7.json"))
        #expect(try devices.all() == [])
    }
}
