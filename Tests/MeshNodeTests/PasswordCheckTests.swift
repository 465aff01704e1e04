import Platform
import Testing

@testable import MeshNode

/// Who waits for a password to be checked, and who is sent away. No password is checked here.
@Suite struct PasswordCheckTests {
    private static func question(_ password: String, from source: String) throws -> PasswordCheck.Question {
        PasswordCheck.Question(
            user: Array("ann".utf8),
            password: Array(password.utf8),
            fingerprint: Array("ann \(password)".utf8),
            network: PasswordCheck.network(of: try #require(IPAddress(source))),
            answers: [{ _ in }]
        )
    }

    /// As many as like: a browser opens its connections at once, and whoever they are, it is one password.
    @Test func theSameQuestionIsAskedOnce() throws {
        var queue = PasswordCheck.Queue()
        let same = try Self.question("secret", from: "10.0.0.1")
        let other = try Self.question("other", from: "10.0.0.1")
        let first = queue.take(same)
        #expect(first == .first)
        let more = (0..<100).map { _ in queue.take(same) }
        #expect(more.allSatisfy { $0 == .waits })
        let begun = queue.next()
        #expect(begun?.password == same.password)
        // While it is looked at, too.
        let meanwhile = [queue.take(same), queue.take(other)]
        #expect(meanwhile == [.waits, .waits])
        let told = queue.finish(isRight: true).count
        #expect(told == 102)
        let known = queue.take(same)
        #expect(known == .known)
        let next = queue.next()
        #expect(next?.password == other.password)
        let toldOther = queue.finish(isRight: false).count
        #expect(toldOther == 1)
        let end = queue.next()
        #expect(end?.password == nil)
        let again = queue.take(other)
        #expect(again == .first, "what was wrong is asked again")
    }

    @Test(arguments: [
        ("10.0.0.1", "10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
    ])
    func aNetworkThatGuessesKeepsNobodyOut(first: String, same: String, other: String) throws {
        var queue = PasswordCheck.Queue()
        var places: [PasswordCheck.Queue.Place] = []
        for index in 0..<4 { places.append(queue.take(try Self.question("\(index)", from: first))) }
        #expect(places == [.first, .waits, .waits, .waits])
        let tooMany = queue.take(try Self.question("4", from: same))
        #expect(tooMany == .refused)
        let there = queue.take(try Self.question("3", from: same))
        #expect(there == .waits, "that question waits already")
        let elsewhere = queue.take(try Self.question("4", from: other))
        #expect(elsewhere == .waits)
    }

    @Test func whereNobodyCanWorkEverybodyIsTold() throws {
        var queue = PasswordCheck.Queue()
        for index in 0..<3 { _ = queue.take(try Self.question("\(index)", from: "10.0.0.1")) }
        let told = queue.giveUp().count
        #expect(told == 3)
        let again = queue.take(try Self.question("0", from: "10.0.0.1"))
        #expect(again == .first)
    }
}
