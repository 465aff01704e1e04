import CAESGCM
import COpenSSL
import TestPeers
import Testing

@testable import H2Transport

/// As an OpenSSL cipher: whatever a program does with it, it answers as OpenSSL's own does.
@Suite(.timeLimit(.minutes(10))) struct AESGCMProviderTests {
    private let iv = [UInt8](20..<32)
    private func key(_ length: Int) -> [UInt8] { Array(40..<UInt8(40 + length)) }

    @Test(arguments: AESGCMClass.all) func knowsItsAnswers(processor: AESGCM.Processor) {
        #expect(caesgcm_self_test(processor.rawValue) == 1)
        #expect(caesgcm_self_test(0) == 0 && caesgcm_self_test(3) == 0)
    }

    @Test(arguments: AESGCMClass.all, [16, 32]) func looksLikeOpenSSLs(
        processor: AESGCM.Processor,
        keyLength: Int
    ) throws {
        let (ours, theirs) = (
            try CipherContext(processor, keyLength: keyLength), try CipherContext(nil, keyLength: keyLength)
        )
        for number in [EVP_CIPHER_get_flags, { UInt(EVP_CIPHER_get_mode($0)) }] as [(OpaquePointer?) -> UInt] {
            #expect(
                number(EVP_CIPHER_CTX_get0_cipher(ours.context)) == number(EVP_CIPHER_CTX_get0_cipher(theirs.context))
            )
        }
        for number in [
            EVP_CIPHER_CTX_get_iv_length, EVP_CIPHER_CTX_get_key_length, EVP_CIPHER_CTX_get_block_size,
            EVP_CIPHER_CTX_get_tag_length, EVP_CIPHER_CTX_get_nid,
        ] { #expect(number(ours.context) == number(theirs.context)) }
        // AES-192-GCM and everything else comes from OpenSSL.
        let library = try AESGCMClass.provider(processor).library
        for name in ["AES-192-GCM", "AES-256-CTR", "ChaCha20-Poly1305"] {
            let cipher = try #require(EVP_CIPHER_fetch(library, name, nil))
            #expect(String(cString: OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher))) == "default")
            EVP_CIPHER_free(cipher)
        }
    }

    /// Each bit of the tag, and one of everything that it vouches for. What was written until then is what OpenSSL's
    /// own has written: the bytes of its stream, and nothing after them.
    @Test(arguments: AESGCMClass.all, [16, 32]) func aWrongTagIsRefused(
        processor: AESGCM.Processor,
        keyLength: Int
    ) throws {
        let contexts = [
            try CipherContext(processor, keyLength: keyLength), try CipherContext(nil, keyLength: keyLength),
        ]
        let (text, additional, key) = (Pattern.bytes(1000), Pattern.bytes(13), key(keyLength))
        let (sealed, tag) = try #require(contexts[0].seal(text, iv: iv, additional: additional, key: key))
        #expect(contexts[0].open(sealed, iv: iv, additional: additional, tag: tag) == text)
        func isRefused(_ sealed: [UInt8], _ iv: [UInt8], _ additional: [UInt8], _ tag: [UInt8]) {
            let written = contexts.map { cipher in
                #expect(cipher.start(key: key, iv: iv, encrypts: false) && cipher.setTag(tag) && cipher.add(additional))
                let opened = cipher.update(sealed)
                #expect(!cipher.finish())
                return opened
            }
            #expect(written[0] == written[1])
        }
        for bit in 0..<128 {
            var wrong = tag
            wrong[bit / 8] ^= 1 << UInt8(bit % 8)
            isRefused(sealed, iv, additional, wrong)
        }
        func changed(_ bytes: [UInt8], _ index: Int) -> [UInt8] {
            var bytes = bytes
            bytes[index] ^= 0x10
            return bytes
        }
        for index in [0, 15, 16, 500, 991, 992, 999] { isRefused(changed(sealed, index), iv, additional, tag) }
        for index in [0, 12] { isRefused(sealed, iv, changed(additional, index), tag) }
        for index in [0, 11] { isRefused(sealed, changed(iv, index), additional, tag) }
        isRefused(Array(sealed.dropLast()), iv, additional, tag)
        // Nor does it go on after that, or take the same IV again.
        #expect(contexts[0].update([1]) == nil)
        // Without a tag there is nothing to compare with.
        let fresh = try CipherContext(processor, keyLength: keyLength)
        #expect(fresh.start(key: key, iv: iv, encrypts: false) && fresh.update(sealed) != nil && !fresh.finish())
    }

    /// An IV is used once; without one OpenSSL makes one, and says which.
    @Test(arguments: AESGCMClass.all) func anIVIsUsedOnce(processor: AESGCM.Processor) throws {
        let cipher = try CipherContext(processor, keyLength: 16)
        #expect(cipher.update([1]) == nil && !cipher.finish(), "no key")
        #expect(cipher.seal([1, 2, 3], iv: iv, additional: [], key: key(16)) != nil)
        #expect(cipher.update([1]) == nil && !cipher.finish())
        #expect(cipher.setIVLength(16) && cipher.update([1]) == nil, "nor by way of another length")
        #expect(cipher.setIVLength(12) && cipher.update([1]) == nil)
        #expect(cipher.seal([1, 2, 3], iv: iv, additional: []) != nil)

        let other = try CipherContext(processor, keyLength: 32)
        #expect(other.start(key: key(32), iv: nil, encrypts: true))
        let sealed = try #require(other.update([7, 8, 9]))
        #expect(other.finish())
        let (made, tag) = (try #require(other.iv), try #require(other.tag()))
        #expect(made.count == 12)
        let reader = try CipherContext(processor, keyLength: 32)
        #expect(reader.open(sealed, iv: made, additional: [], tag: tag, key: key(32)) == [7, 8, 9])
    }

    /// A message that is done keeps its tag, whatever the context is told of the next one.
    @Test(arguments: AESGCMClass.all, [16, 32]) func theTagStaysWhenTheLengthOfTheIVChanges(
        processor: AESGCM.Processor,
        keyLength: Int
    ) throws {
        let (text, longer) = (Pattern.bytes(100), [UInt8](60..<76))
        let tags = try [processor, nil].map { processor in
            let cipher = try CipherContext(processor, keyLength: keyLength)
            let first = try #require(cipher.seal(text, iv: iv, additional: [1], key: key(keyLength))?.tag)
            #expect(cipher.setIVLength(longer.count))
            #expect(cipher.tag() == first && cipher.tag(4) == Array(first.prefix(4)))
            // The next one has its own; and it cannot go on without an IV.
            #expect(cipher.update(text) == nil)
            let second = try #require(cipher.seal(text, iv: longer, additional: [])?.tag)
            #expect(cipher.setIVLength(12) && cipher.tag() == second && second != first)
            return [first, second]
        }
        #expect(tags[0] == tags[1])
    }

    /// What openssl.cnf says of random numbers holds for our library context, too.
    @Test(arguments: AESGCMClass.all) func theRandomGeneratorIsTheConfiguredOne(processor: AESGCM.Processor) throws {
        let directory = TemporaryDirectory()
        let file = try directory.write(
            "openssl.cnf",
            "openssl_conf = start\n[start]\nrandom = chance\n[chance]\nrandom = HASH-DRBG\ndigest = SHA512\n"
        )
        let settings = RandomSettings(file: file)
        #expect(settings.generator == "HASH-DRBG" && settings.digest == "SHA512" && settings.seed == nil)
        func generator(_ settings: RandomSettings) throws -> String {
            let library = try AESGCMClass.fresh(processor, random: settings).library
            let primary = try #require(RAND_get0_primary(library))
            return String(cString: EVP_RAND_get0_name(EVP_RAND_CTX_get0_rand(primary)))
        }
        #expect(try generator(settings) == "HASH-DRBG")
        #expect(try generator(RandomSettings()) == "CTR-DRBG")
        // No such section, and no such file.
        try directory.write("other.cnf", "openssl_conf = start\n[start]\n[random]\nrandom = HASH-DRBG\n")
        for name in ["other.cnf", "missing.cnf"] {
            #expect(RandomSettings(file: directory.path(name)) == RandomSettings())
        }
    }

    /// TLS 1.2 hands the record's header over as a parameter; that is OpenSSL's own.
    @Test(arguments: AESGCMClass.all) func recordsOfTLS12(processor: AESGCM.Processor) throws {
        let results = try [processor, nil].map { processor in
            let cipher = try CipherContext(processor, keyLength: 16)
            #expect(cipher.start(key: key(16), iv: nil, encrypts: true))
            // All of the IV, so that nothing is left to chance.
            var whole = iv
            #expect(EVP_CIPHER_CTX_ctrl(cipher.context, EVP_CTRL_GCM_SET_IV_FIXED, -1, &whole) > 0)
            var header: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 1, 23, 3, 3, 0, 8 + 100]
            #expect(EVP_CIPHER_CTX_ctrl(cipher.context, EVP_CTRL_AEAD_TLS1_AAD, 13, &header) == 16)
            var record = [UInt8](repeating: 0, count: 8) + Pattern.bytes(100) + [UInt8](repeating: 0, count: 16)
            // In place, as TLS does it.
            let count = record.withUnsafeMutableBufferPointer {
                EVP_Cipher(cipher.context, $0.baseAddress, $0.baseAddress, UInt32($0.count))
            }
            #expect(count == 124)
            return record
        }
        #expect(results[0] == results[1] && results[0] != [UInt8](repeating: 0, count: 124))
    }

    /// The same steps at random, for ours and for OpenSSL's own: the same answers and the same bytes, step by step.
    @Test(arguments: AESGCMClass.all, [16, 32]) func fuzzed(processor: AESGCM.Processor, keyLength: Int) throws {
        var chance = Fuzzer("AES-GCM on \(processor) with \(keyLength * 8) bits")
        var done = 0
        while chance.goesOn(done, of: 300) {
            done += 1
            var both = [
                try CipherContext(processor, keyLength: keyLength), try CipherContext(nil, keyLength: keyLength),
            ]
            var ivLength = 12
            var encrypts = true
            // What the last message came to, to be opened by the next.
            var (sealed, tag): ([UInt8], [UInt8]) = ([], Array(repeating: 1, count: 16))
            let (key, additional) = (chance.bytes(keyLength), chance.bytes(chance.below(30)))
            var iv = chance.bytes(ivLength)
            #expect(both.allSatisfy { $0.start(key: key, iv: iv, encrypts: true) })
            for _ in 0..<chance.below(25) {
                let step = chance.below(12)
                switch step {
                case 0:
                    ivLength = chance.pick([1, 8, 12, 12, 12, 16, 60])
                    #expect(both.map { $0.setIVLength(ivLength) } == [true, true])
                case 1, 2, 3:
                    encrypts = step == 1 ? true : step == 2 ? false : chance.below(2) == 0
                    if encrypts || iv.count != ivLength { iv = chance.bytes(ivLength) }
                    let new = chance.below(3) == 0 ? key : nil
                    #expect(both.map { $0.start(key: new, iv: iv, encrypts: encrypts) } == [true, true])
                    if encrypts { sealed = [] }
                case 4:
                    if chance.below(3) == 0 { tag = chance.bytes(chance.below(18)) }
                    let results = both.map { $0.setTag(tag) }
                    #expect(results[0] == results[1] && results[0] == (!encrypts && (1...16).contains(tag.count)))
                case 5:
                    let data = chance.below(4) == 0 ? chance.bytes(chance.below(300)) : additional
                    let results = both.map { $0.add(data) }
                    #expect(results[0] == results[1])
                case 6, 7, 8:
                    let count = chance.pick([0, 1, 15, 16, 17, 130, chance.below(600), chance.below(20_000)])
                    let data = encrypts || sealed.isEmpty ? chance.bytes(count) : sealed
                    let results = both.map { $0.update(data) }
                    #expect(results[0] == results[1])
                    if encrypts, let more = results[0] { sealed += more }
                case 9:
                    let results = both.map { $0.finish() }
                    #expect(results[0] == results[1])
                    if encrypts, results[0] {
                        let length = chance.pick([0, 4, 12, 16, 16, 16, 17])
                        let tags = both.map { $0.tag(length) }
                        #expect(tags[0] == tags[1])
                        tag = tags[0] ?? tag
                    }
                    if !results[0] {
                        // OpenSSL's own goes on after a wrong tag; ours waits for the next IV.
                        if iv.count != ivLength { iv = chance.bytes(ivLength) }
                        #expect(both.map { $0.start(key: nil, iv: iv, encrypts: encrypts) } == [true, true])
                    }
                case 10:
                    let copies = both.map { $0.copy() }
                    if let ours = copies[0], let theirs = copies[1] { both = [ours, theirs] }
                default:
                    #expect(both[0].iv == both[1].iv)
                }
            }
        }
    }
}
