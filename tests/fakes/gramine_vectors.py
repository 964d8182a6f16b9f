"""What Gramine's own signer computed of the manifests here with the stand-in of libpal.so, release by release.

The second value is the SHA-256 of the 256 bytes to be signed without the four of the date.
"""

_LOADER = (
    'loader.entrypoint = { uri = "file:/lib/libsysdb.so", sha256 = "' + "11" * 32 + '" }\n'
    'libos.entrypoint = "/app"\nfs.mounts = [ { path = "/app", uri = "file:app" } ]\n'
    'sgx.trusted_files = [ { uri = "file:app", sha256 = "' + "22" * 32 + '" } ]\n'
)
MANIFESTS: dict[str, str] = {
    "oldest": 'sgx.enclave_size = "16M"\nsgx.thread_num = 3\nsgx.isvsvn = 7\nsgx.require_avx512 = true\nsgx.support_exinfo = true\n',
    "amx": 'sgx.enclave_size = "16M"\nsgx.thread_num = 3\nsgx.isvsvn = 7\nsgx.require_amx = true\nsgx.require_pkru = true\n',
    "nonpie": 'sgx.enclave_size = "16M"\nsgx.thread_num = 1\nsgx.nonpie_binary = true\nsgx.debug = true\nsgx.isvprodid = 65535\n',
    "edmm": 'sgx.enclave_size = "1G"\nsgx.max_threads = 5\nsgx.edmm_enable = true\n',
    "edmm by default": "sgx.max_threads = 2\nsgx.edmm_enable = true\n",
    "exinfo": 'sgx.enclave_size = "0x1000000"\nsgx.max_threads = 2\nsgx.require_exinfo = true\n',
    "features": 'sgx.enclave_size = "16384K"\nsgx.max_threads = 2\nsgx.use_exinfo = true\n'
    'sgx.cpu_features = { avx = "disabled", avx512 = "required", amx = "unspecified", pkru = "required" }\n',
    "defaults": "",
}
MANIFESTS = {name: _LOADER + text + f"# {'x' * 4000}\n" for name, text in MANIFESTS.items()}
SIGNED: dict[tuple[str, str], tuple[str, str]] = {
    ("oldest", "1.0"): (
        "15093a1e7e302ea5f147825ccacfe731e68758095ed78b36f02a1cdc5a12be6e",
        "d00de4e1948bb180fb652067b59e99522f4358f0d72fb4e782117ff0ae49314b",
    ),
    ("nonpie", "1.0"): (
        "a0ebb4bab3692293c50d2ac0abdf2683eb665f69673f841fb49213da2342dc9e",
        "b88308d14247d5f3985776423f8e0c8a117f5e4080668ba0e92dcd0a60b4c4a6",
    ),
    ("defaults", "1.0"): (
        "98f8658bedb60a73de7cbb72b975f326c5bcc7ab5b34e63bad6975a9fb13b566",
        "3f07b646c0feb9697f277f413cfff08a7f89ee93e51d0bc2719623cab0918738",
    ),
    ("amx", "1.1"): (
        "0c8e900e10a2176fa1115cf90bbd93cbd155f939a92b8d16fa85bb40c1e508ca",
        "5064d569a27f1c98a2d5f1c4724fdbadb43daf744c983927a256f80cef1a2620",
    ),
    ("amx", "1.2"): (
        "0c8e900e10a2176fa1115cf90bbd93cbd155f939a92b8d16fa85bb40c1e508ca",
        "5064d569a27f1c98a2d5f1c4724fdbadb43daf744c983927a256f80cef1a2620",
    ),
    ("oldest", "1.3"): (
        "15093a1e7e302ea5f147825ccacfe731e68758095ed78b36f02a1cdc5a12be6e",
        "997e1ef31453a4f6a574be8be6afa68ef5e7a0cfdde35206bf734e86ca03a1e9",
    ),
    ("nonpie", "1.4"): (
        "a0ebb4bab3692293c50d2ac0abdf2683eb665f69673f841fb49213da2342dc9e",
        "aa4d099b5820c8bd9847e55b3308c958fffb44679da120e9ba5f1d7a73e9816d",
    ),
    ("edmm", "1.4"): (
        "19d3573d0ce69c3b94ee21dc73a45c7e7bea0cc223f0d19485a731e617909b3c",
        "0472b7fddb6b732df2c9728f76bc11ed2829e8cca4bb75a0740f735787f81296",
    ),
    ("edmm by default", "1.4"): (
        "6a8c57e2011f10bed565e8abecf6a9e78141999fb08b9e0cfd2e1224461e97c1",
        "13a2e5744397a6769e665cf7cc5440495d82d16ef732dadc0448bb02316a90d5",
    ),
    ("exinfo", "1.4"): (
        "c53096c9d403f439146093fe893318d5d6d405980a33637051705f8913ce05d1",
        "2b17f3b1933373432175bf17a8630398f31ed4ac2f361d5acdbe0027f394c91c",
    ),
    ("defaults", "1.4"): (
        "98f8658bedb60a73de7cbb72b975f326c5bcc7ab5b34e63bad6975a9fb13b566",
        "f270bca4990fdfcbaab733fe3d0d798d272cfec1ded417aca455c40c4aec1e5c",
    ),
    ("nonpie", "1.5"): (
        "c5daa3f3b8993d64e19b7fb326c10002040c2fcb84f0443b0c793f53d8f2c956",
        "3c0ead41cf28243380d07a7be3f9357fe6b770700c566be8d7256d816985eae1",
    ),
    ("edmm by default", "1.5"): (
        "369b686d843b33c0746dfa32b431819f4c0d16c5261c74ccf1ae69882e522285",
        "e5960ccbae9af41f3b358100899f517d63fec1d0e4dce65c4a8fd9625f050dd8",
    ),
    ("exinfo", "1.5"): (
        "190bd1e6ae932d9823dd066e649d642c0210b8fc148435a1d503e36cb8d510ee",
        "ff3760d4bca2dd6030e3abe6c8abdbbd8da90a98673909bb9679252c11288c2a",
    ),
    ("defaults", "1.5"): (
        "00ca7300c278254d296474a94116d507ae2b0970efc099b52a6936656277d79e",
        "ff6d5c96cf3e17eb6eb8718105e83cdeab04a4d7af948102d9fa5e50216b2632",
    ),
    ("exinfo", "1.6"): (
        "190bd1e6ae932d9823dd066e649d642c0210b8fc148435a1d503e36cb8d510ee",
        "ff3760d4bca2dd6030e3abe6c8abdbbd8da90a98673909bb9679252c11288c2a",
    ),
    ("features", "1.6"): (
        "2a15471606c9d83a495827ae680224835b1a78c4d45109e9b81c8dcc383499ce",
        "fdd76d850ea32aa3783bfcdfdae4d60cdb684962bef5c67268bed0aea088bbe9",
    ),
    ("exinfo", "1.7"): (
        "190bd1e6ae932d9823dd066e649d642c0210b8fc148435a1d503e36cb8d510ee",
        "ff3760d4bca2dd6030e3abe6c8abdbbd8da90a98673909bb9679252c11288c2a",
    ),
    ("features", "1.8"): (
        "2a15471606c9d83a495827ae680224835b1a78c4d45109e9b81c8dcc383499ce",
        "fdd76d850ea32aa3783bfcdfdae4d60cdb684962bef5c67268bed0aea088bbe9",
    ),
    ("edmm", "1.9"): (
        "05d6e6f9f3bbb1619eba2ddaf1f1af789560e567f6a582df78a1b4de923f529c",
        "33d70284b99ded78fc32a34e06099092782b841ce9f8ee6c5f2d0dd83dab1ad4",
    ),
    ("edmm by default", "1.9"): (
        "369b686d843b33c0746dfa32b431819f4c0d16c5261c74ccf1ae69882e522285",
        "e5960ccbae9af41f3b358100899f517d63fec1d0e4dce65c4a8fd9625f050dd8",
    ),
    ("features", "1.9"): (
        "2a15471606c9d83a495827ae680224835b1a78c4d45109e9b81c8dcc383499ce",
        "fdd76d850ea32aa3783bfcdfdae4d60cdb684962bef5c67268bed0aea088bbe9",
    ),
    ("defaults", "1.9"): (
        "00ca7300c278254d296474a94116d507ae2b0970efc099b52a6936656277d79e",
        "ff6d5c96cf3e17eb6eb8718105e83cdeab04a4d7af948102d9fa5e50216b2632",
    ),
}
