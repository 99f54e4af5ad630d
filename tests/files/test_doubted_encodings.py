"""An encoding that is set and decodes every byte, but to letters that no text has, is pointed out."""

import pytest

from firstlight.files.encodings import doubt_encoding
from firstlight.files.text_decoder import Decoding, TextDecoder

TEXTS = {
    "gb18030": "图书馆提前放假报纸用半页写了这件事",
    "big5": "漁船早晨開門人們都很高興老師收到一封信",
    "cp932": "吾輩は猫である名前はまだ無い",
    "euc_kr": "안녕하세요 저는 학생입니다 오늘은 날씨가 좋습니다",
    "cp1251": "Все счастливые семьи похожи друг на друга",
    "koi8_r": "Все счастливые семьи похожи друг на друга",
}
SET = ["latin-1", "cp1252", "cp1251", "koi8_r", "gb18030", "big5", "cp932", "cp949"]


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("other", SET)
def test_another_encoding_is_refused_or_said(encoding: str, other: str) -> None:
    data = "".join(f"{TEXTS[encoding]} {i}\n" for i in range(20)).encode(encoding)
    try:
        is_right = data.decode(other) == data.decode(encoding)
    except UnicodeDecodeError:
        return  # refused
    notes: list[str] = []
    decoder = TextDecoder("a.csv", Decoding(other, setting='data.encoding = "{}"', note=notes.append))
    decoder.decode(data)
    decoder.decode(b"")
    assert len(notes) == (not is_right)
    if notes:
        assert TEXTS[encoding][:8] in notes[0]
        codec = {"euc_kr": "cp949"}.get(encoding, encoding)
        assert notes[0].endswith(f'if that is its text, set data.encoding = "{codec}"')


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Le café était très près, ça va bien à l’hôtel."),
        ("cp1252", "naïve façade – “quoted” text… 25 °C, 3 £"),
        ("latin-1", "ÿ þ ð Íslenska er þægileg með æðar"),
        ("iso8859-15", "Le cœur coûte 5 € à l'été"),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy"),
        ("iso8859-2", "Zażółć gęślą jaźń"),
        ("cp1254", "Pijamalı hasta yağız şoföre çabucak güvendi"),
        ("iso8859-7", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία"),
        ("cp1251", "СЪЕШЬ ЖЕ ЕЩЁ ЭТИХ МЯГКИХ ФРАНЦУЗСКИХ БУЛОК"),
        ("cp1251", "Українська мова є державною їжак"),
        ("koi8_r", "СЪЕШЬ ЖЕ ЕЩЁ ЭТИХ МЯГКИХ БУЛОК"),
        ("mac_cyrillic", "Все счастливые семьи"),
        ("cp1255", "שלום עולם זה טקסט בעברית"),
        ("cp1256", "السلام عليكم ورحمة الله"),
        ("cp874", "สวัสดีครับ นี่คือข้อความภาษาไทย"),
        ("cp1257", "Rūķīši žogo čiekurus glāžšķūņu"),
        ("gb18030", "歐陽修《醉翁亭記》環滁皆山也"),
        ("gb2312", "石室诗士施氏嗜狮"),
        ("cp932", "ｱｲｳｴｵ 東京都千代田区霞が関"),
        ("euc_jp", "日本語"),
        ("cp949", "대한민국 서울특별시"),
        ("cp437", "Le café était très près"),
    ],
)
@pytest.mark.parametrize("times", [1, 40])
def test_a_text_in_its_own_encoding_is_not_doubted(encoding: str, text: str, times: int) -> None:
    assert doubt_encoding(("\n".join([text] * times) + "\n").encode(encoding), encoding) is None
