import MeshNode
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
    ])
    func accepted(text: String, bind: String, destination: String) throws {
        let forward = try PortForward(parsing: text)
        #expect(forward.bind.description == bind)
        #expect(forward.destination.description == destination)
    }

    @Test(arguments: [
        "", "8080", "8080:web", "x:web:80", "8080:web:", "8080:web:0", "1:2:3:4:5", "host:8080:web:80", "8080::80",
    ])
    func refused(text: String) {
        #expect(throws: StreamError.self) { try PortForward(parsing: text) }
    }
}
