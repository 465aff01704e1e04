import Platform
import SSHSignal
import TestPeers
import Testing
import YAML

@testable import Fleet

/// Machines to enrol, from YAML.
@Suite struct InventoryTests {
    @Test func aListOfHosts() throws {
        let inventory = try Inventory.parse(
            """
            - root@10.0.0.7:2222
            - {host: cam1, name: cam-1, namespace: prod, user: pi, port: 22, identityFile: ~/.ssh/cams, jump: gate,
               allowPorts: [80, 554], labels: {site: berlin, floor: "2"}}
            """,
            file: "hosts.yaml"
        )
        #expect(inventory.hosts.map(\.host) == ["root@10.0.0.7:2222", "cam1"])
        let camera = inventory.hosts[1]
        #expect(camera.name == "cam-1" && camera.namespace == "prod" && camera.user == "pi" && camera.port == 22)
        #expect(camera.identityFile == "~/.ssh/cams" && camera.jump == "gate" && camera.allowPorts == [80, 554])
        #expect(camera.labels == ["site": "berlin", "floor": "2"])
        #expect(inventory.hosts[0].user == nil)
    }

    /// Windows editors begin a file with one, and end its lines in their own way.
    @Test func aByteOrderMarkDoesNoHarm() throws {
        let directory = TemporaryDirectory()
        let plain = try directory.write("hosts", "\u{FEFF}root@10.0.0.7:2222 one\r\n# all\r\nweb two\r\n")
        let yaml = try directory.write("hosts.yaml", "\u{FEFF}hosts:\r\n- {host: web, name: two}\r\n")
        let targets = try InventoryFile.targets(plain)
        #expect(targets.map(\.name) == ["one", "two"])
        #expect(targets.map(\.destination.host) == ["10.0.0.7", "web"])
        #expect(try InventoryFile.targets(yaml).map(\.name) == ["two"])
    }

    /// `ssh_config` has it in commands that a shell reads.
    @Test(arguments: ["pi;touch x", "$(id)|x", "-oProxyCommand=x", "-\u{301}x", "a b", "pi\n", ""])
    func anAccountIsCheckedAsInADestination(user: String) throws {
        let text = user.replacing("\n", with: "\\n")
        let directory = TemporaryDirectory()
        for yaml in ["- {host: a, user: \"\(text)\"}", "defaults: {user: \"\(text)\"}\nhosts: [a]"] {
            let file = try directory.write("hosts.yaml", yaml)
            let error = #expect(throws: HostError.self) { try InventoryFile.targets(file) }
            #expect(error?.message.contains("hosts.yaml:") == true, "\(error?.message ?? "")")
        }
    }

    @Test func whatHostsHaveInCommon() throws {
        let inventory = try Inventory.parse(
            """
            defaults: {user: root, namespace: prod, allowPorts: [80]}
            hosts:
            - a
            - {host: b, user: pi, allowPorts: [22]}
            """,
            file: "hosts.yaml"
        )
        #expect(inventory.hosts.map(\.user) == ["root", "pi"])
        #expect(inventory.hosts.map(\.namespace) == ["prod", "prod"])
        #expect(inventory.hosts.map(\.allowPorts) == [[80], [22]])
    }

    @Test(arguments: [
        ("- {host: a, nmae: b}", "hosts.yaml:1:", "did you mean 'name'?"),
        ("- a\n- {name: b}", "hosts.yaml:2:", "needs the key 'host'"),
        ("- a\n\n- {host: b, port: 70000}", "hosts.yaml:3:", "1 to 65535"),
        ("- {host: a, allowPorts: [http]}", "hosts.yaml:1:", "'http' is no port"),
        ("- {host: a, labels: [x]}", "hosts.yaml:1:", "'labels' must be a mapping"),
        ("hosts: a", "hosts.yaml:1:", "must be a list"),
        ("[]", "hosts.yaml:1:", "empty list"),
        ("defaults: {host: a}\nhosts: [b]", "hosts.yaml:1:", "unknown key 'host' in 'defaults'"),
    ])
    func mistakesNameTheirLine(text: String, place: String, mention: String) throws {
        let error = #expect(throws: ConfigurationError.self) { try Inventory.parse(text, file: "hosts.yaml") }
        let message = error?.description ?? ""
        #expect(message.contains(place) && message.contains(mention), "\(message)")
    }
}
