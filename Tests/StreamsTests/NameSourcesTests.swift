import Testing

@testable import Streams

@Suite("nsswitch.conf and resolv.conf") struct NameSourcesTests {
    private func steps(_ hosts: String, asksModules: Bool = true) -> [NameSources.Step] {
        NameSources(nsswitch: Array("passwd: files systemd\n\(hosts)\n".utf8), asksModules: asksModules).steps
    }

    @Test(
        "c-ares is asked for files and name servers, in their order",
        arguments: [
            ("hosts: files dns", "fb"), ("hosts:dns files", "bf"), (" hosts :\tfiles # dns", "f"), ("", "fb"),
            ("# hosts: dns", "fb"), ("hosts: dns [!UNAVAIL=return] files", "b"),
        ]
    )
    func known(line: String, letters: String) {
        #expect(steps(line).first?.source == .cares(letters))
    }

    @Test("what it does not know is asked as the line has it, in its place")
    func modules() {
        #expect(
            steps("hosts: files myhostname mymachines dns").map(\.source) == [
                .cares("f"), .modules("myhostname mymachines"), .cares("b"),
            ]
        )
    }

    @Test(
        "an action behind a module holds for the rest of the line, which is asked with it",
        arguments: [
            (
                "resolve [!UNAVAIL=return] files myhostname dns",
                [.modules("resolve [!UNAVAIL=return] files myhostname dns")]
            ),
            (
                "files mdns4_minimal [NOTFOUND=return] dns",
                [.cares("f"), .modules("mdns4_minimal [NOTFOUND=return] dns")]
            ),
            (
                "mymachines mdns4_minimal[NOTFOUND=return  TRYAGAIN=continue] dns [!UNAVAIL=return] files",
                [.modules("mymachines mdns4_minimal [NOTFOUND=return TRYAGAIN=continue] dns [!UNAVAIL=return] files")]
            ),
        ] as [(String, [NameSources.Source])]
    )
    func restOfLine(line: String, sources: [NameSources.Source]) {
        #expect(steps("hosts: \(line)").map(\.source) == sources)
    }

    @Test("without a program that asks them, modules are left out, and name servers stand in for resolve")
    func noProgram() {
        let sources = steps("hosts: mymachines resolve [!UNAVAIL=return] files myhostname", asksModules: false)
        #expect(sources.map(\.source) == [.cares("b"), .cares("f")])
        #expect(steps("hosts: wins", asksModules: false).map(\.source) == [.cares("fb")])
    }

    @Test("that there is no such name can be the last word")
    func final() {
        let steps = steps("hosts: files [NOTFOUND=return] dns")
        #expect(steps == [NameSources.Step(source: .cares("f"), isFinal: true), NameSources.Step(source: .cares("b"))])
    }

    @Test("the patience with name servers is what resolv.conf says, within bounds")
    func patience() {
        #expect(ServerPatience(resolver: Array("nameserver 127.0.0.1\n".utf8)) == ServerPatience())
        let said = ServerPatience(resolver: Array("options ndots:2 timeout:4 attempts:1\n".utf8))
        #expect(said.timeout == .seconds(4))
        #expect(said.attempts == 1)
        let much = ServerPatience(resolver: Array("options timeout:99999999999 attempts:-3\n".utf8))
        #expect(much.timeout == .seconds(30))
        #expect(much.attempts == 1)
    }
}
