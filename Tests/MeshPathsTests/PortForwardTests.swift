import MeshPaths
import Streams
import Testing

@Suite struct PortForwardTests {
    @Test(arguments: [
        ("8080:localhost:80", "127.0.0.1:8080", "localhost:80"),
        ("0:db.prod:5432", "127.0.0.1:0", "db.prod:5432"),
        ("127.0.0.2:8080:10.0.0.7:80", "127.0.0.2:8080", "10.0.0.7:80"),
        ("*:8080:web:80", "0.0.0.0:8080", "web:80"),
        (":8080:web:80", "0.0.0.0:8080", "web:80"),
        ("[::1]:8080:[fd00::2]:80", "[::1]:8080", "[fd00::2]:80"),
        ("localhost:1:web:80", "127.0.0.1:1", "web:80"),
        ("/run/a.sock:web:80", "unix:/run/a.sock", "web:80"),
        ("8080:/run/b.sock", "127.0.0.1:8080", "/run/b.sock"),
        ("[::1]:8080:/run/b.sock", "[::1]:8080", "/run/b.sock"),
        ("/run/a.sock:/run/b.sock", "unix:/run/a.sock", "/run/b.sock"),
    ])
    func accepted(text: String, bind: String, destination: String) throws {
        let forward = try PortForward(parsing: text)
        #expect(forward.bind.description == bind)
        #expect(forward.destination.description == destination)
    }

    @Test(arguments: [
        "", "8080", "8080:web", "x:web:80", "8080:web:", "8080:web:0", "1:2:3:4:5", "host:8080:web:80", "8080::80",
        "+80:web:80", "/run/a.sock", "/run/a.sock:80:web:80", "8080:web:/run/b.sock:80",
    ])
    func refused(text: String) {
        #expect(throws: StreamError.self) { try PortForward(parsing: text) }
    }

    @Test(
        arguments: [
            ("8080:web:80", "localhost", 8080, "web:80"),
            ("0:[::1]:80", "localhost", 0, "[::1]:80"),
            ("*:8080:web:80", "", 8080, "web:80"),
            (":8080:web:80", "", 8080, "web:80"),
            ("10.0.0.7:8080:web:80", "10.0.0.7", 8080, "web:80"),
            ("8080:/run/b.sock", "localhost", 8080, "/run/b.sock"),
        ] as [(String, String, UInt16, String)]
    )
    func remote(text: String, host: String, port: UInt16, destination: String) throws {
        let forward = try RemoteForward(parsing: text)
        #expect(forward.bindHost == host)
        #expect(forward.port == port)
        #expect(forward.destination.description == destination)
    }

    @Test(arguments: ["", "8080", "/run/a.sock:web:80", "x:web:80", "a:b:c:web:80"])
    func remoteRefused(text: String) {
        #expect(throws: StreamError.self) { try RemoteForward(parsing: text) }
    }

    @Test func dynamic() throws {
        #expect(try DynamicForward(parsing: "1080").bind.description == "127.0.0.1:1080")
        #expect(try DynamicForward(parsing: "*:0").bind.description == "0.0.0.0:0")
        #expect(try DynamicForward(parsing: "[::1]:1080").bind.description == "[::1]:1080")
        for text in ["", "x", "1:2:3", "host:1080"] {
            #expect(throws: StreamError.self) { try DynamicForward(parsing: text) }
        }
    }
}
