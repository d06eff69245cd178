"""An independent telephone: PJSIP places one call, records what it hears, and prints one line of JSON.

    python -m tests.pjsua2_phone URI RECORD.wav SECONDS [HEADER=VALUE ...]

The transport is that of the URI; with TLS the server has to have a certificate of the CA in $PJSIP_CA.

Runs in a process of its own, because PJSIP has global state and threads.
"""

from __future__ import annotations

import json
import os
import sys
import time

import pjsua2 as pj


class Phone(pj.Call):
    """One call; what is heard goes into the recorder as soon as there is media."""

    def __init__(self, account: pj.Account, recorder: pj.AudioMediaRecorder) -> None:
        super().__init__(account)
        self.recorder = recorder
        self.over = False
        self.facts: dict[str, object] = {"answered": False}

    def onCallState(self, prm: pj.OnCallStateParam) -> None:
        info = self.getInfo()
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED:
            self.facts["answered"] = True
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self.facts |= {"status": info.lastStatusCode, "seconds": info.connectDuration.sec}
            self.over = True

    def onCallMediaState(self, prm: pj.OnCallMediaStateParam) -> None:
        info = self.getInfo()  # owns what it lists
        for index, media in enumerate(info.media):
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                self.getAudioMedia(index).startTransmit(self.recorder)

    def onStreamDestroyed(self, prm: pj.OnStreamDestroyedParam) -> None:
        rx = self.getStreamStat(prm.streamIdx).rtcp.rxStat
        self.facts |= {"packets": rx.pkt, "lost": rx.loss, "reordered": rx.reorder, "duplicates": rx.dup}


def main(uri: str, record: str, seconds: float, headers: list[str]) -> int:
    config = pj.EpConfig()
    config.logConfig.level = 0
    config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.medConfig.clockRate = 8000
    config.medConfig.noVad = True
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = transport.publicAddress = "127.0.0.1"
    kind = pj.PJSIP_TRANSPORT_UDP
    if ";transport=tcp" in uri:
        kind = pj.PJSIP_TRANSPORT_TCP
    elif ";transport=tls" in uri:
        kind = pj.PJSIP_TRANSPORT_TLS
        transport.tlsConfig.CaListFile = os.environ["PJSIP_CA"]
        transport.tlsConfig.verifyServer = True
    endpoint.transportCreate(kind, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    settings = pj.AccountConfig()
    settings.idUri = "sip:pjsip@127.0.0.1"
    settings.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    account = pj.Account()
    account.create(settings)
    recorder = pj.AudioMediaRecorder()
    recorder.createRecorder(record)
    phone = Phone(account, recorder)
    order = pj.CallOpParam(True)
    for header in headers:
        line = pj.SipHeader()
        line.hName, line.hValue = header.split("=", 1)
        order.txOption.headers.append(line)
    phone.makeCall(uri, order)
    end = time.monotonic() + seconds
    while not phone.over and time.monotonic() < end:
        endpoint.libHandleEvents(20)
    if not phone.over:
        phone.hangup(pj.CallOpParam())
        while not phone.over and time.monotonic() < end + 5:
            endpoint.libHandleEvents(20)
    sys.stdout.write(json.dumps(phone.facts) + "\n")
    # In this order: the recorder completes its file when it goes, and nothing may outlive the library.
    phone.recorder = None
    del recorder
    del phone
    account.shutdown()
    del account
    endpoint.libDestroy()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
