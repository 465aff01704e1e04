import TestPeers
import Testing

@testable import Agent

@Suite struct AgentReleasesTests {
    @Test func onlyReleasesThatNobodyUsesOrInstallsGo() {
        let old = AgentReleases.installationLimit + 1
        let found = [
            ("0.1.0-aaaaaaaaaaaa", old), ("0.1.0-bbbbbbbbbbbb", old), ("0.0.9-cccccccccccc", old),
            ("0.2.0-dddddddddddd", old - 1), ("state", old), ("current", old), ("..", old), ("mine-eeeeeeeeeeee", old),
        ]
        #expect(
            AgentReleases.superfluous(found, keeping: ["0.1.0-aaaaaaaaaaaa", nil, "0.1.0-bbbbbbbbbbbb"])
                == ["0.0.9-cccccccccccc"]
        )
        #expect(AgentReleases.superfluous(found, keeping: []).count == 3)
    }

    @Test func aReleaseIsAVersionAndTheBeginningOfAHash() {
        #expect(AgentReleases.isRelease("0.1.0-a61355dc0d18"))
        #expect(AgentReleases.isRelease("10.0.0-beta-a61355dc0d18"))
        for name in ["0.1.0", "0.1.0-a61355dc0d1", "0.1.0-a61355dc0d1x", "v0.1.0-a61355dc0d18", "0/1-a61355dc0d18", ""]
        {
            #expect(!AgentReleases.isRelease(name), "\(name)")
        }
    }

    /// The program has to lie where `enroll` puts it: `ROOT/RELEASE/bootstrap` beside `ROOT/state`.
    @Test func theReleaseInUseIsWhatTheLinkSays() throws {
        let directory = TemporaryDirectory()
        let root = directory.path("bootstrap")
        try directory.write("bootstrap/0.1.0-aaaaaaaaaaaa/bootstrap", "", permissions: 0o755)
        #expect(AgentReleases(state: "\(root)/state", executable: "/usr/bin/bootstrap") == nil)
        #expect(AgentReleases(state: "/var/state", executable: "\(root)/0.1.0-aaaaaaaaaaaa/bootstrap") == nil)
        let releases = try #require(
            AgentReleases(state: "\(root)/state", executable: "\(root)/0.1.0-aaaaaaaaaaaa/bootstrap")
        )
        #expect(releases.own == "0.1.0-aaaaaaaaaaaa")
        #expect(releases.current == nil)
        try releases.use(releases.own)
        #expect(releases.current == releases.own)
        #expect(releases.program == "\(root)/current/bootstrap")
        // A link to what is gone is none.
        try releases.use("0.1.0-bbbbbbbbbbbb")
        #expect(releases.current == nil)
    }
}
