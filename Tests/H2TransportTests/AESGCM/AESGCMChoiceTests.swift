import CAESGCM
import COpenSSL
import TestPeers
import Testing

@testable import H2Transport

/// When ours runs, and for whom.
@Suite(.timeLimit(.minutes(10))) struct AESGCMChoiceTests {
    private let old: UInt = 0x3000_0130
    private let new: UInt = 0x3010_0000

    private func situation(_ change: (inout AESGCM.Situation) -> Void = { _ in }) -> AESGCM.Choice {
        var situation = AESGCM.Situation(
            processor: .avx512,
            isServedByNewOpenSSL: true,
            version: old,
            isFIPS: false
        )
        change(&situation)
        return AESGCM.choice(for: situation)
    }

    @Test func isChosenByProcessorSettingAndLibrary() {
        #expect(situation() == .ours(.avx512))
        #expect(situation { ($0.processor, $0.isServedByNewOpenSSL) = (.avx2, false) } == .ours(.avx2))
        #expect(situation { $0.processor = nil } == .openSSL("no VAES"))
        for setting in ["", "auto"] { #expect(situation { $0.setting = setting } == .ours(.avx512)) }
        #expect(situation { $0.setting = "avx2" } == .ours(.avx2))
        #expect(situation { ($0.setting, $0.processor) = ("avx2", nil) } == .openSSL("no VAES"))
        #expect(situation { $0.setting = "openssl" } == .openSSL("BOOTSTRAP_AES_GCM=openssl"))
        #expect(
            situation { $0.setting = "fast" } == .openSSL("BOOTSTRAP_AES_GCM=fast: not auto, avx2 or openssl")
        )
        #expect(situation { $0.isFIPS = true } == .openSSL("FIPS mode"))
        #expect(
            situation { $0.foreignProvider = "qat" } == .openSSL("its configuration has the provider qat")
        )
        // OpenSSL 3.1 has it for AVX-512 only.
        #expect(situation { $0.version = new } == .openSSL("VAES, AVX-512"))
        #expect(
            situation { ($0.version, $0.processor, $0.isServedByNewOpenSSL) = (new, .avx2, false) } == .ours(.avx2)
        )
    }

    /// `OPENSSL_ia32cap` takes away from ours what it takes away from OpenSSL's.
    @Test func aMaskedProcessorHasLess() {
        let own = caesgcm_processor(nil)
        #expect(caesgcm_processor(":") == 0)
        for everything in ["~0", "~0:~0", ":~0", "0xffffffffffffffff:0xffffffffffffffff"] {
            #expect(caesgcm_processor(everything) == (everything == "~0" ? 0 : own), "\(everything)")
        }
        // AES, PCLMULQDQ, AVX and the bit that says that XCR0 can be read; VAES, VPCLMULQDQ and AVX2.
        for bit in [32 + 25, 32 + 1, 32 + 28] { #expect(caesgcm_processor("~0x\(hex(bit)):~0") == 0) }
        for bit in [32 + 9, 32 + 10, 5] { #expect(caesgcm_processor(":~0x\(hex(bit))") == 0) }
        // The four parts of AVX-512: the rest is AVX2's.
        for bit in [16, 17, 30, 31] {
            #expect(caesgcm_processor(":~0x\(hex(bit))") == min(own, 1))
            #expect(caesgcm_openssl_has_avx512(":~0x\(hex(bit))") == 0)
        }
        #expect(caesgcm_processor("0:0xffffffffffffffff") == 0)
    }

    private func hex(_ bit: Int) -> String { String(UInt64(1) << UInt64(bit), radix: 16) }

    private func connect(_ client: AESGCM, _ server: AESGCM) async throws {
        let job = Endpoint.Job(bytesToSend: 3_000_001)
        let outcome = try await runPair(
            client: .client.with { ($0.job, $0.aes) = (job, client) },
            server: .server.with { ($0.job, $0.aes) = (job, server) }
        )
        for side in [outcome.client, outcome.server] {
            #expect(side.refusal == nil && side.peer?.cipher == "TLS_AES_128_GCM_SHA256")
            #expect(side.endpoint?.received == 3_000_001)
            #expect(side.endpoint?.checksum == Endpoint.checksum(3_000_001))
        }
    }

    /// Connections between ours and OpenSSL's own, and by ours alone.
    @Test(arguments: AESGCMClass.all) func connectionsUseIt(processor: AESGCM.Processor) async throws {
        let (ours, theirs) = (try AESGCMClass.fresh(processor), AESGCM(reason: "test"))
        #expect(ours.keysSet == 0 && ours.description.contains("built in (VAES, AVX"))
        try await connect(ours, theirs)
        #expect(ours.keysSet == 4)
        try await connect(theirs, ours)
        #expect(ours.keysSet == 8)
        try await connect(ours, ours)
        #expect(ours.keysSet == 16)
        #expect(theirs.keysSet == 0)
    }

    /// A program that embeds the library has what it had, whatever our connections use.
    @Test func theDefaultLibraryContextIsUntouched() async throws {
        let ours = AESGCM.ofThisProcess
        try await connect(ours, ours)
        #expect((ours.keysSet > 0) == (ours.processor != nil))
        #expect(OSSL_PROVIDER_available(nil, CAESGCM_PROVIDER) == 0)
        for name in ["AES-128-GCM", "AES-256-GCM"] {
            let cipher = try #require(EVP_CIPHER_fetch(nil, name, nil))
            #expect(String(cString: OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher))) == "default")
            EVP_CIPHER_free(cipher)
            #expect(EVP_CIPHER_fetch(nil, name, "provider=\(CAESGCM_PROVIDER)") == nil)
        }
        let context = try #require(SSL_CTX_new(TLS_client_method()))
        SSL_CTX_free(context)
    }
}
