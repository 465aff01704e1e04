import Streams
import TestPeers
import Testing

@testable import MeshDirectory

/// The messages, against bytes that protoc 3.21 made of etcd's own rpc.proto.
@Suite struct EtcdMessageTests {
    private func bytes(_ hexadecimal: String) -> [UInt8] {
        let digits = Array(hexadecimal)
        return stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0...($0 + 1)]), radix: 16) }
    }

    @Test func requests() {
        #expect(EtcdRangeRequest(prefix: Array("/a/".utf8)).encoded == bytes("0a032f612f12032f6130"))
        #expect(
            EtcdRangeRequest(prefix: Array("/a/".utf8), isKeysOnly: true).encoded == bytes("0a032f612f12032f61304001")
        )
        #expect(EtcdRangeRequest.end(of: [0xFF, 0xFF]) == [0])
        #expect(EtcdRangeRequest.end(of: [1, 0xFF]) == [2])
        var txn = EtcdTxnRequest()
        txn.condition = (Array("k".utf8), 300)
        txn.puts = [(Array("k".utf8), Array("v".utf8))]
        txn.deletes = [Array("d".utf8)]
        #expect(txn.encoded == bytes("0a0810021a016b30ac02" + "1208" + "12060a016b120176" + "1205" + "1a030a0164"))
        #expect(
            EtcdWatchRequest(prefix: Array("/a/".utf8), startRevision: 7).encoded
                == bytes("0a0c0a032f612f12032f61301807")
        )
    }

    @Test func responses() throws {
        // header {cluster 5, revision 9}, kv {key a, mod 8, version 2, value b}
        let range = try EtcdRangeResponse(decoding: bytes("0a0408051809" + "120a" + "0a0161180820022a0162" + "2001"))
        #expect(range.header.cluster == 5)
        #expect(range.header.revision == 9)
        #expect(range.pairs.map(\.key) == [Array("a".utf8)])
        #expect(range.pairs.first?.modRevision == 8)
        #expect(range.pairs.first?.value == Array("b".utf8))
        #expect(try EtcdTxnResponse(decoding: bytes("0a0218091001")).succeeded)
        #expect(try !EtcdTxnResponse(decoding: bytes("0a021809")).succeeded)
        let watch = try EtcdWatchResponse(decoding: bytes("0a02180918012001280c3203626164" + "5a0708011203" + "0a0161"))
        #expect(watch.isCreated && watch.isCancelled)
        #expect(watch.compactRevision == 12)
        #expect(watch.reason == "bad")
        #expect(watch.events.count == 1)
        #expect(watch.events.first?.isDeletion == true)
        #expect(watch.events.first?.pair?.key == Array("a".utf8))
    }

    /// Two bytes each are a hundred in memory: a directory has no such number of keys.
    @Test func noMessageHasMoreKeysThanADirectory() throws {
        let most = 4 * DirectoryManifest.maximumParts + 2
        func many(_ tag: UInt8, _ count: Int) -> [UInt8] { (0..<count).flatMap { _ in [tag, 0x00] } }
        let range = try EtcdRangeResponse(decoding: many(0x12, most))
        #expect(range.pairs.count == most)
        let tooMany = #expect(throws: StreamError.self) { try EtcdRangeResponse(decoding: many(0x12, most + 1)) }
        #expect(tooMany?.code == .limit)
        let watch = try EtcdWatchResponse(decoding: many(0x5A, most))
        #expect(watch.events.count == most)
        let tooMuch = #expect(throws: StreamError.self) { try EtcdWatchResponse(decoding: many(0x5A, most + 1)) }
        #expect(tooMuch?.code == .limit)
    }

    /// A node watches from the revision after the one that it has read: the last number has none, and no store begins
    /// below zero.
    @Test(arguments: ["ffffffffffffffff7f", "ffffffffffffffffff01"])
    func noRevisionIsTheLast(number: String) throws {
        let field = [0x18] + bytes(number)
        let header = [0x0A, UInt8(field.count)] + field
        #expect(throws: StreamError.self) { try EtcdRangeResponse(decoding: header) }
        #expect(throws: StreamError.self) { try EtcdTxnResponse(decoding: header) }
        #expect(throws: StreamError.self) { try EtcdWatchResponse(decoding: header) }
        #expect(throws: StreamError.self) { try EtcdKeyValue(decoding: field) }
        #expect(throws: StreamError.self) { try EtcdWatchResponse(decoding: [0x28] + bytes(number)) }
        let last = bytes("0a0a18feffffffffffffff7f")
        #expect(try EtcdRangeResponse(decoding: last).header.revision == Int64.max - 1)
    }

    /// Whatever comes is a message or an error.
    @Test func anyBytes() {
        var fuzzer = Fuzzer("etcd's messages")
        let corpus = [
            bytes("0a0408051809120a0a0161180820022a01622001"), bytes("0a0218091001"),
            bytes("0a02180918012001280c32036261645a07080112030a0161"),
        ]
        var done = 0
        while fuzzer.goesOn(done, of: 20_000) {
            let input = fuzzer.mutate(corpus)
            _ = try? EtcdRangeResponse(decoding: input)
            _ = try? EtcdTxnResponse(decoding: input)
            _ = try? EtcdWatchResponse(decoding: input)
            done += 1
        }
    }
}
