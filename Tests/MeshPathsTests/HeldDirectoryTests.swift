import Logging
import MeshIdentity
import Streams
import Testing

@testable import MeshPaths

/// Which of the connections that peers hold takes a stream, and how many are kept.
@Suite(.timeLimit(.minutes(10))) struct HeldDirectoryTests {
    private static let cam = identity("cam")
    private static let dev = identity("dev")

    private static func identity(_ name: String) -> SPIFFEID {
        do { return try SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)") } catch { fatalError("\(error)") }
    }

    /// One for each of two loops.
    private static func homes(
        _ directory: HeldDirectory,
        _ group: EventLoopGroup
    ) async throws -> [LoopBound<HeldConnections>] {
        var homes: [LoopBound<HeldConnections>] = []
        for loop in group.loops {
            homes.append(
                try await loop.execute {
                    let connections = HeldConnections(
                        on: loop,
                        directory: directory,
                        trust: TrustBundleSet(),
                        settings: .defaults,
                        logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
                    )
                    return LoopBound(connections, on: loop)
                }
            )
        }
        return homes
    }

    @Test func theNewestFewOfAnIdentityAreKept() async throws {
        let group = EventLoopGroup(count: 2)
        let directory = HeldDirectory(all: 10, each: 3)
        let homes = try await Self.homes(directory, group)
        var ids: [UInt64] = []
        for number in 0..<5 {
            let (id, oldest) = try #require(directory.add(Self.cam, at: homes[number % 2]))
            #expect(oldest?.id == (number < 3 ? nil : ids[number - 3]))
            #expect(oldest == nil || oldest?.home.loop === homes[(number - 3) % 2].loop)
            ids.append(id)
        }
        #expect(directory.count == 3)
        // Others are not touched, until there are too many of all.
        for _ in 0..<3 { #expect(directory.add(Self.dev, at: homes[0])?.insteadOf == nil) }
        #expect(directory.count == 6)
        let full = HeldDirectory(all: 2, each: 2)
        for _ in 0..<2 { #expect(full.add(Self.cam, at: homes[0]) != nil) }
        #expect(full.add(Self.dev, at: homes[0]) == nil)
        // An identity that has its share may still come again.
        #expect(full.add(Self.cam, at: homes[0])?.insteadOf != nil && full.count == 2)
        await group.shutDown()
    }

    /// Several devices may have one identity: which one has a stream, its certificate says.
    @Test func aStreamThatGoesOnAsksItsOwnDeviceFirst() async throws {
        let group = EventLoopGroup(count: 1)
        let directory = HeldDirectory()
        let home = try await Self.homes(directory, group)[0]
        let names = [CertificateName(issuer: "1", serial: "1"), CertificateName(issuer: "1", serial: "2")]
        var ids: [UInt64] = []
        for number in 0..<4 {
            let id = try #require(directory.add(Self.cam, names[number % 2], at: home)).id
            directory.isReady(id, of: Self.cam)
            ids.append(id)
        }
        #expect(directory.choose([Self.cam])?.id == ids[3])
        #expect(directory.choose([Self.cam], first: names[0])?.id == ids[2])
        #expect(directory.choose([Self.cam], besides: [ids[2]], first: names[0])?.id == ids[0])
        #expect(directory.choose([Self.cam], besides: [ids[2], ids[0]], first: names[0])?.id == ids[3])
        await group.shutDown()
    }

    @Test func aStreamTakesTheNewestThatIsReadyWhereverItIs() async throws {
        let group = EventLoopGroup(count: 2)
        let directory = HeldDirectory()
        let homes = try await Self.homes(directory, group)
        func add(_ identity: SPIFFEID, _ home: Int) throws -> UInt64 {
            try #require(directory.add(identity, at: homes[home])).id
        }
        func chosen(_ identities: [SPIFFEID] = [Self.cam]) -> UInt64? { directory.choose(identities)?.id }
        let old = try add(Self.cam, 0)
        #expect(chosen() == nil, "it has not said that it speaks HTTP/2")
        directory.isReady(old, of: Self.cam)
        #expect(chosen() == old)
        let new = try add(Self.cam, 0)
        directory.isReady(new, of: Self.cam)
        #expect(chosen() == new)
        let far = try add(Self.cam, 1)
        directory.isReady(far, of: Self.cam)
        #expect(chosen() == far)
        // Those that have not opened it are left out.
        #expect(directory.choose([Self.cam], besides: [far])?.id == new)
        #expect(directory.choose([Self.cam], besides: [far, new, old]) == nil)
        // Somebody else's is never taken.
        let other = try add(Self.dev, 0)
        directory.isReady(other, of: Self.dev)
        #expect(chosen() == far && chosen([Self.dev]) == other && chosen([Self.dev, Self.cam]) == other)
        directory.remove(far, of: Self.cam)
        #expect(chosen() == new)
        directory.remove(new, of: Self.cam)
        #expect(chosen() == old && directory.count == 2)
        directory.remove(old, of: Self.cam)
        directory.remove(old, of: Self.cam)
        #expect(chosen() == nil && directory.count == 1)
        await group.shutDown()
    }
}
