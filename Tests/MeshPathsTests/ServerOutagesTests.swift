import Platform
import Testing

@testable import MeshPaths

@Suite struct ServerOutagesTests {
    /// Each event loop says what it sees; the first one is told.
    @Test func eachChangeIsNewsOnce() throws {
        let outages = ServerOutages()
        let server = try Authority(parsing: "10.0.0.1:15008")
        #expect(!outages.ended("db", server), "it was never down")
        for _ in 0..<2 {
            #expect(outages.began("db", server))
            #expect(!outages.began("db", server))
            #expect(outages.began("web", server), "another peer's")
            #expect(outages.ended("db", server))
            #expect(!outages.ended("db", server))
            #expect(outages.ended("web", server))
        }
    }
}
