import COpenSSL
import TestPeers
import Testing

@testable import SSHSignal

@Suite struct KeystreamProviderTests {
    /// One direction of a connection, as libssh2 uses OpenSSL, with the implementation that `properties` asks for.
    private final class Cipher {
        private let context: OpaquePointer
        let name: String

        init(_ properties: String) throws {
            context = try #require(EVP_CIPHER_CTX_new())
            let cipher = try #require(EVP_CIPHER_fetch(nil, KeystreamProvider.algorithm, properties))
            name = String(cString: try #require(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher))))
            #expect(EVP_CipherInit_ex2(context, cipher, nil, nil, 1, nil) == 1)
            EVP_CIPHER_free(cipher)
        }

        deinit { EVP_CIPHER_CTX_free(context) }

        func start(key: [UInt8]?, counter: [UInt8]?) {
            #expect(EVP_CipherInit_ex2(context, nil, key, counter, 1, nil) == 1)
        }

        func apply(_ data: [UInt8]) -> [UInt8] {
            var output = [UInt8](repeating: 0, count: data.count)
            #expect(EVP_Cipher(context, &output, data, UInt32(data.count)) == data.count)
            return output
        }
    }

    @Test func isWhatLibSSH2Gets() throws {
        #expect(LibSSH2.initialised == 0)
        try #require(KeystreamProvider.isInstalled)
        #expect(try Cipher("").name == "bootstrap-keystream")
        #expect(try Cipher("provider=default").name == "default")
        // The random generator's cipher stays OpenSSL's.
        let other = try #require(EVP_CIPHER_fetch(nil, "AES-256-CTR", nil))
        #expect(String(cString: OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(other))) == "default")
        EVP_CIPHER_free(other)
    }

    @Test func isAESInCounterModeWhateverTheLengths() throws {
        try #require(KeystreamProvider.isInstalled)
        let (ours, reference) = (try Cipher(""), try Cipher("provider=default"))
        var random = Pattern(seed: 7)
        func bytes(_ count: Int) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: count)
            bytes.withUnsafeMutableBytes { random.fill($0) }
            return bytes
        }
        // The counter of the second one runs over.
        for counter in [bytes(16), [UInt8](repeating: 0xFF, count: 16)] {
            let key = bytes(16)
            ours.start(key: key, counter: counter)
            reference.start(key: key, counter: counter)
            for length in [16, 16, 1, 15, 7, 9, 16, 31, 2047, 2048, 2049, 5, 16, 4096, 3, 16, 10_000, 16] {
                let data = bytes(length)
                #expect(ours.apply(data) == reference.apply(data), "\(length) bytes")
            }
        }
        // A new counter with the same key begins anew.
        let counter = bytes(16)
        ours.start(key: nil, counter: counter)
        reference.start(key: nil, counter: counter)
        let data = bytes(100)
        #expect(ours.apply(data) == reference.apply(data))
    }
}
